"""The kernel's edge: network namespaces, listeners, marks, original destinations, the enrolment socket."""
