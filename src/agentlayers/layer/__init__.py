"""
Dependency injection modelled on Effect's layers, on top of dependency-injector.

``from agentlayers.layer import Layer`` loads nothing heavy. Everything that needs dependency-injector or PyYAML is
loaded on first use.

Layers as values::

    app = Repo.layer().provide(Pool.layer(url))
    async with app.build(Repo) as repo: ...

A declarative container (a subclass that replaces a slot rebinds every dependent)::

    class AppContainer(LayerContainer):
        config = providers.Configuration()
        pool: providers.Provider[Pool] = providers.Resource(Pool, url=config.url)   # annotation =
            service of the slot
        repo: providers.Provider[Repo] = providers.Singleton(Repo)                  # Repo(pool:
            Pool) is wired by annotation

        catalogue = Catalogue(                                                      # what YAML may
        write, by slot
            pool={"postgres": resource(Pool), "memory": singleton(MemoryPool)},
            repo={"default": singleton(Repo)},
        )

    class TestContainer(AppContainer):
        pool = providers.Singleton(MemoryPool)

    async with TestContainer.build(Repo) as repo: ...
    layer = AppContainer.layer(outputs=(Repo,), pool=Pool.layer(url))               # slots as
    keyword arguments async with layer.provide(Pool.layer(url)).build(Repo) as repo: ...
    # or by service type

YAML::

    container = load_layers("app.yaml", container=AppContainer)                     # a subclass of
    AppContainer async with container.build(Repo) as repo: ...

A *slot* that has no default is declared ``providers.Dependency(instance_of=Service)``. Catalogue entries are
``singleton(callable)``, ``resource(callable)``, ``request(callable)`` and ``request_resource(callable)`` (one for each
``app.scope()``), ``value(object)`` or ``recipe(function_returning_a_layer)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.layer.layer import Layer
from agentlayers.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from agentlayers.layer.app import App
    from agentlayers.layer.catalogue import Catalogue, recipe, request, request_resource, resource, singleton, value
    from agentlayers.layer.container import LayerContainer
    from agentlayers.layer.graph import Graph, Node, graph_of
    from agentlayers.layer.import_path import catalogue_from_entry_points
    from agentlayers.layer.origin import Origin
    from agentlayers.layer.preset import find_preset
    from agentlayers.layer.scope import Scope
    from agentlayers.layer.yaml_loader import load_layers
    from agentlayers.layer.yaml_schema import schema_of
    from agentlayers.layer.yaml_writer import to_yaml

__all__ = [
    "App",
    "Catalogue",
    "Graph",
    "Layer",
    "LayerContainer",
    "Node",
    "Origin",
    "Scope",
    "catalogue_from_entry_points",
    "find_preset",
    "graph_of",
    "load_layers",
    "recipe",
    "request",
    "request_resource",
    "resource",
    "schema_of",
    "singleton",
    "to_yaml",
    "value",
]

_HOMES = {
    "App": "app",
    "Catalogue": "catalogue",
    "Graph": "graph",
    "LayerContainer": "container",
    "Node": "graph",
    "Origin": "origin",
    "Scope": "scope",
    "catalogue_from_entry_points": "import_path",
    "find_preset": "preset",
    "graph_of": "graph",
    "load_layers": "yaml_loader",
    "recipe": "catalogue",
    "request": "catalogue",
    "request_resource": "catalogue",
    "resource": "catalogue",
    "schema_of": "yaml_schema",
    "singleton": "catalogue",
    "to_yaml": "yaml_writer",
    "value": "catalogue",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
