"""What installs and starts the project."""
