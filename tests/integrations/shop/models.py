from __future__ import annotations

from django.db import models


class Person(models.Model):
    name = models.TextField()
    email = models.TextField(null=True)
    joined = models.DateTimeField(auto_now_add=True)


class Note(models.Model):
    tenant = models.IntegerField()
    text = models.TextField()
    person = models.ForeignKey(Person, models.CASCADE)
