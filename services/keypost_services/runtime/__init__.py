"""What every service stands on: server, settings, authentication, errors, telemetry. It knows no service."""
