"""Markets fitted to real panels."""
