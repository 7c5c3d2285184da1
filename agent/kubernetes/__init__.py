"""The API server, as its clients see it: where it is and who we are, requests, lists that are followed."""
