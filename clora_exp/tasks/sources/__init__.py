"""One file a data source: `Config`, `fingerprint()` and `tasks()`. Found by file name; see CONTRIBUTING.md."""
