"""The device agent: the `swupd` command."""
