"""Export: cleaned data and quarantine, shard by shard, as verification settled it."""
