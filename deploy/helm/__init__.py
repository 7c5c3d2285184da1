"""The Helm chart, and the parts of it that are made from the code: `python -m deploy.helm` writes them."""
