"""What `winnow init` finds in files that it has never seen, and the config that it proposes."""
