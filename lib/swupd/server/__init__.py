"""The build's side: from a root file system to a signed update stream."""
