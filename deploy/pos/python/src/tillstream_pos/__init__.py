"""A POS's way to the Tillstream agent on the same machine.

    from tillstream_pos import Till

    till = Till()
    answer = till.transaction(sale)
    for text in answer.messages("customer_message"):
        show(text)

No call raises, and none takes longer than its deadline: an agent that is slow, absent or broken costs no sale.
"""

from .answer import Answer, Captured, Outcome, TillError
from .till import Till

__all__ = ["Answer", "Captured", "Outcome", "Till", "TillError"]
