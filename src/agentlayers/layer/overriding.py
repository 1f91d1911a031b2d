"""Put overrides in place, and check that each is what its part promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dependency_injector import providers

from agentlayers.layer.environment import Environment
from agentlayers.layer.errors import OverrideTypeError, UnknownNameError, suggestion
from agentlayers.layer.inspection import is_instance, type_accepts
from agentlayers.layer.layer import Layer
from agentlayers.layer.override import Override
from agentlayers.layer.provider_walk import Provider, effective
from agentlayers.layer.slot import service_of

if TYPE_CHECKING:
    from agentlayers.layer.compiler import Compiler

__all__ = ["override_part", "refuse_unknown"]


def override_part(
    compiler: Compiler, name: str, provider: Provider, service: Any, override: Override, environment: Environment
) -> None:
    """
    Let ``override`` answer in place of ``provider``.

    Args:
        compiler: Where problems, origins and the override itself are recorded.
        name: The part's name.
        provider: What is replaced.
        service: What the part promises, or None.
        override: By what, and where that was written.
        environment: What a layer given as the replacement may need.
    """
    if isinstance(provider, providers.Configuration):
        provider.override(override.value)
        compiler.overridden[id(provider)] = (name, override)
        return
    replacement = _replacement(compiler, service, override, environment)
    end = effective(provider)
    if replacement is not end:
        end.override(replacement)
    compiler.origins[id(replacement)] = override.origin
    for key in [key for key, (other, _override) in compiler.overridden.items() if other == name]:
        del compiler.overridden[key]  # an outer override of the same part
    compiler.overridden[id(replacement)] = (name, override)
    compiler.keep(replacement)
    if service is not None:
        _check_type(compiler, name, service, override, replacement)


def _replacement(compiler: Compiler, service: Any, override: Override, environment: Environment) -> Provider:
    value: Any = override.value
    if isinstance(value, Layer):
        outputs = compiler.compile(value, environment)
        return outputs.get(service) or next(iter(outputs.values()))
    if providers.is_provider(value):
        return compiler.copied(value, environment)
    return providers.Object(value)


def _check_type(compiler: Compiler, name: str, service: Any, override: Override, replacement: Any) -> None:
    if type(replacement) is providers.Object:
        fits, held = is_instance(replacement.provides, service), type(replacement.provides)
    else:
        held = compiler.services.get(id(replacement)) or service_of(replacement)
        fits = type_accepts(service, held)
    if not fits:
        promised = getattr(service, "__name__", str(service))
        compiler.problems.append(
            OverrideTypeError(
                f"override of {name}: expected a {promised}, got a {getattr(held, '__name__', held)}",
                origin=override.origin,
                hint=f"Layer.mock({promised}, ...) makes a partial one",
            )
        )


def refuse_unknown(compiler: Compiler, label: str, override: Override, known: Any) -> None:
    """Record an override of something that is not there."""
    key = override.key if isinstance(override.key, str) else getattr(override.key, "__name__", str(override.key))
    compiler.problems.append(
        UnknownNameError(
            f"override: {label} has no part {key!r}{suggestion(key, known)}",
            origin=override.origin,
        )
    )
