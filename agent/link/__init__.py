"""Between supervisor and worker: the channel, its messages, shared memory."""
