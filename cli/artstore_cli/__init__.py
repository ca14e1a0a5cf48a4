"""The user's command: runs the local system (`up`, `down`, `status`) and its tests (`test`)."""
