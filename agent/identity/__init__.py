"""Who a workload is: SPIFFE IDs, SVIDs, the bundle, renewal, and where SVIDs come from."""
