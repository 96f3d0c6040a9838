package order

// Decide holds a change against the order as it is (known false when there is none) and returns the
// order as it then is and whether the change was made. Every store calls it under the row's lock.
func Decide(now Order, known bool, c Change) (Order, bool) {
	if !known {
		return c.Order, true
	}
	if c.Order.State.Rank() <= now.State.Rank() {
		return now, false
	}
	now.State, now.UpdatedAt = c.Order.State, c.Order.UpdatedAt
	if c.Order.Reason != "" {
		now.Reason = c.Order.Reason
	}
	if !c.Order.Payment.IsZero() {
		now.Payment = c.Order.Payment
	}
	return now, true
}

// Merge adds an item to the cart's lines, or its quantity to the line of the same item. It returns
// the line's index. ErrCheckedOut, ErrCartFull, ErrQuantity.
func (c *Cart) Merge(item CartItem) (int, error) {
	const most = 1000
	switch {
	case c.CheckedOut:
		return 0, ErrCheckedOut
	case item.Quantity < 1 || item.Quantity > most:
		return 0, ErrQuantity
	}
	for i := range c.Items {
		if c.Items[i].Sale != item.Sale || c.Items[i].SKU != item.SKU {
			continue
		}
		if c.Items[i].Quantity+item.Quantity > most {
			return 0, ErrQuantity
		}
		c.Items[i].Quantity += item.Quantity
		c.Items[i].UnitPrice = item.UnitPrice
		return i, nil
	}
	if len(c.Items) >= MaxCartItems {
		return 0, ErrCartFull
	}
	c.Items = append(c.Items, item)
	return len(c.Items) - 1, nil
}
