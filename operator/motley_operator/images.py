"""Images of a registry of one's own: the same names below another host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from motley_planner.domain.hardware import Catalog


def moved(image: str, registry: str) -> str:
    """The image in another registry, with its repository, tag and digest; the same for an empty one.

    What stands before the first slash is a host if it has a dot or a port, or is localhost;
    otherwise the image is one of Docker Hub's, which has no host in its name.
    """
    if not registry or not image:
        return image
    host, slash, rest = image.partition("/")
    named = bool(slash) and (host == "localhost" or "." in host or ":" in host)
    return f"{registry}/{rest if named else image}"


def moved_catalog(catalog: Catalog, registry: str) -> Catalog:
    """The catalog with the images of its engines and frameworks in another registry."""
    if not registry:
        return catalog

    def all_of(images: Mapping[str, str]) -> dict[str, str]:
        return {vendor: moved(image, registry) for vendor, image in images.items()}

    engines = {
        name: engine
        if engine.launch is None
        else replace(engine, launch=replace(engine.launch, images=all_of(engine.launch.images)))
        for name, engine in catalog.engines.items()
    }
    frameworks = {
        name: replace(framework, default_image=moved(framework.default_image, registry))
        for name, framework in catalog.frameworks.items()
    }
    return replace(catalog, engines=engines, frameworks=frameworks)
