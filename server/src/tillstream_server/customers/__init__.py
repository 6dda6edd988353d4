"""Who a record is about, and where what names them is kept."""
