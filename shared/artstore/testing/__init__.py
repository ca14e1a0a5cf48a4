"""Support for the tests of several modules. A running service never imports it."""
