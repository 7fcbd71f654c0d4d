"""OpenAI's Responses API.

schemas.py    bodies, and how their fields are handled
items.py      input and output items to the turns that chat templates read
prepare.py    a body, and the response that it continues, to a job
store.py      responses that are kept, per caller: so many, so large, so long
writer.py     pieces to events and to the whole response
routes.py     /v1/responses
"""
