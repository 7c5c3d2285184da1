"""The CNI plugin: the program that a container runtime runs, what it asks the agent, and how it is answered."""
