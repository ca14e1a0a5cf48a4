"""The registry of storage elements, its publication to the other modules, and commands to elements."""
