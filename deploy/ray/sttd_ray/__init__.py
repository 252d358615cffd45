"""sttd's engine on Ray Serve: many machines decode what daemons send (deploy/ray/README.md).

`app` alone imports Ray. What it decides is decided in the modules beside it, which import none.
"""
