"""What one arrival does; put your own here."""

from locust import FastHttpUser, task


class Customer(FastHttpUser):
    """Looks at the front page."""

    @task
    def look(self) -> None:
        self.client.get("/", name="front")
