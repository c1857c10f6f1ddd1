"""The pytest plugin, apart from what pytest must load in every run (`_jumpstarter_pytestplugin`).

- `bench` connects to the device, or serves it, and knows which test runs.
- `recording` holds the exporter's log and the consoles of one test.
- `frames` removes the frames of libraries from the traceback of a test that has failed.
- `properties` describes the exporter for JUnit XML.
"""
