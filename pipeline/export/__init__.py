"""Export of the cleaned data and the quarantine, shard by shard, by the decisions that verification has settled."""
