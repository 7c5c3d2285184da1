"""An authority's state in a cluster's own store: what its objects hold, a copy in memory, and how the two are one."""
