"""What talks to Kubernetes is tested against Kubernetes."""
