"""Seat inventory for an event booking system: locks, bookings, and the jobs that give seats back."""

__version__ = "0.1.0"
