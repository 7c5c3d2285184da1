"""The init step: the rules, routes and sysctls that capture one pod. Imports nothing from `agent`."""
