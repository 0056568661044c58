from tests.unit.gateway.fixtures import broker, bus, open_world, servers, settings, store, world

__all__ = ["broker", "bus", "open_world", "servers", "settings", "store", "world"]
