"""guarddb below Django: a database backend and a middleware.

    DATABASES = {"default": {
        "ENGINE": "guarddb.integrations.django",
        "NAME": "shop", "USER": "agent",
        "OPTIONS": {"policy": "sales.yaml", "agent": "web"},
    }}
    MIDDLEWARE = [..., "guarddb.integrations.django.middleware.SettingsMiddleware"]
    GUARDDB_SETTINGS = "shop.tenancy.settings_of"     # a function: request -> {"app.tenant": "42"}

The backend is Django's own for PostgreSQL, with guarded connections: whatever `guarddb.connect()` takes goes into OPTIONS.
"""
