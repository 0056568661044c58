"""The documentation page; Swagger UI, which it starts, comes from the package swagger-ui-py."""
