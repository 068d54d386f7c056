"""The default program, as an online shop would set it up.

It has the shape of the blueprint that ``GET /v1/program`` serves. The result of ``user.registered`` is exactly the
published example of an event result.
"""

from typing import Final

from perkamo.sandbox.messages import Json

SHOP_PROGRAM: Final[dict[str, Json]] = {
    "name": "Sandbox shop",
    "wallets": [{"key": "points", "name": "Points"}, {"key": "stars", "name": "Stars"}],
    "earningRules": [
        {"event": "user.registered", "label": "Created an account", "reward": {"wallet": "points", "amount": 50}},
        {
            "event": "purchase.completed",
            "label": "Bought something",
            "reward": {"wallet": "points", "formula": "{{amount}} / 100"},
        },
        {
            "event": "purchase.refunded",
            "label": "Sent something back",
            "reward": {"wallet": "points", "formula": "-{{amount}} / 100"},
        },
        {"event": "review.created", "label": "Wrote a review", "reward": {"wallet": "points", "amount": 20}},
        {"event": "review.created", "label": "Wrote a review (star)", "reward": {"wallet": "stars", "amount": 1}},
        {"event": "referral.completed", "label": "Brought a friend", "reward": {"wallet": "points", "amount": 200}},
        {
            "event": "newsletter.subscribed",
            "label": "Subscribed to the newsletter",
            "reward": {"wallet": "points", "amount": 10},
        },
        {
            "event": "cart.item_added",
            "label": "Put an item into the cart",
            "reward": {"wallet": "stars", "formula": "{{item.quantity}} * 0.5"},
        },
    ],
    "levels": {
        "wallet": "points",
        "steps": [
            {"level": 1, "name": "Bronze", "at": 0},
            {"level": 2, "name": "Silver", "at": 100},
            {"level": 3, "name": "Gold", "at": 500},
            {"level": 4, "name": "Platinum", "at": 2000},
        ],
    },
    "perks": [
        {"key": "welcome_member", "name": "Welcome member", "unlockAt": {"wallet": "points", "balance": 50}},
        {"key": "free_shipping", "name": "Free shipping", "unlockAt": {"level": 2}},
        {"key": "early_access", "name": "Early access to sales", "unlockAt": {"level": 3}},
        {"key": "personal_shopper", "name": "Personal shopper", "unlockAt": {"level": 4}},
    ],
    "achievements": [
        {"key": "first_purchase", "name": "First purchase", "event": "purchase.completed", "count": 1},
        {"key": "regular", "name": "Regular customer", "event": "purchase.completed", "count": 10},
        {"key": "critic", "name": "Critic", "event": "review.created", "count": 3},
    ],
    "rewards": [
        {"key": "voucher_10", "name": "Voucher over 10", "wallet": "points", "cost": 100},
        {"key": "gift_box", "name": "Gift box", "wallet": "points", "cost": 750},
    ],
}
