"""What a cluster's API server asks before it stores an object: who is to be captured, and what policy says."""
