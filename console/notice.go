package console

import (
	"errors"
	"net/http"
)

// notice is a sentence to the shopper or operator: what happened, and what to do next.
type notice struct {
	Status    int
	Title     string
	Next      string
	Kind      string
	RequestID string
	Good      bool
	Again     again
	Actions   []link
}

// link is an address and its text; in a form, a field and its value.
type link struct{ Href, Text string }

// again says whether a refused form is worth sending once more, and with which Idempotency-Key.
type again int

const (
	never   again = iota
	sameKey       // nothing or not known what was done: the same request, which happens once
	newKey        // decided; another try is another request
)

// Any reports whether another try makes sense.
func (a again) Any() bool { return a != never }

// advice words a kind of problem for a shopper. The API's own detail speaks to programmers, of headers and keys.
type advice struct {
	title string
	next  string
	again again
}

func adviceOn(kind string) (advice, bool) {
	a, ok := map[string]advice{
		"sold-out":         {"Sold out", "Every unit has been bought. See the other items of this sale, or the other sales.", never},
		"held-out":         {"All held", "Every unit is held by somebody who is paying. Some may come back: wait a moment, then try again.", newKey},
		"limit-reached":    {"Limit per shopper reached", "You have as many as one shopper may have. Pay for what you hold, or cancel it to choose anew.", never},
		"too-many-unpaid":  {"Too many holds that are not paid for", "You hold as many reservations as one shopper may without paying. Pay for them or cancel some, then reserve again.", never},
		"rate-limited":     {"Too many requests", "You were faster than one shopper may be. Wait a second, then try again.", sameKey},
		"expired":          {"The hold has expired", "The time to pay is over and the units went back on sale. You were not charged. Reserve again while there are some.", never},
		"sale-not-open":    {"The sale is not open", "The sale's page says when it opens, and whether it is paused or over. Come back then.", never},
		"price-changed":    {"The price is another", "Nothing was reserved. Look at the price on the sale's page, and reserve again if you agree.", never},
		"quantity":         {"Quantity not allowed", "Choose 1 or more, up to the limit per shopper, and reserve again.", never},
		"unknown-item":     {"The sale has no such item", "Choose one of the items on the sale's page.", never},
		"payment-declined": {"Payment declined", "You were not charged, and the units went back on sale. Reserve again and choose another means of payment.", never},
		"illegal-move":     {"Not possible in its present state", "It has changed meanwhile. Look at it as it is now, then decide what to do.", never},

		"overloaded": {"Too many at once", "Nothing was done. Wait some seconds, then try again: it happens once, however often you try.", sameKey},
		"draining":   {"Just restarting", "Nothing was done. Wait a second, then try again.", sameKey},
		"not-ready":  {"Not ready yet", "A part of the shop is still starting. Wait a second, then try again.", sameKey},
		"uncertain":  {"Not known whether it happened", "Try again to find out: it is the same request and happens at most once.", sameKey},
		"in-flight":  {"Still being handled", "Your request is under way. Wait a moment, then try again: it happens once.", sameKey},
		"internal":   {"Something went wrong here", "Try again: it is the same request and happens at most once. If it stays, tell us the request id.", sameKey},
		"login-busy": {"Too many log in at the moment", "Wait a second, then try again.", sameKey},

		"idempotency-key-reused": {"This form was sent before", "It was sent with other values, and that counts. Go back, load the page again, and send it anew.", never},
		"bad-credentials":        {"Wrong e-mail address or password", "Check both, then log in again.", never},
		"email-taken":            {"E-mail address taken", "You have an account already. Log in instead.", never},
		"invalid-email":          {"Not an e-mail address", "Use one such as name@example.com.", never},
		"weak-password":          {"Password too short or too long", "Use 10 to 128 characters; a sentence is easy to remember.", never},
		"forbidden":              {"Operators only", "Your account is a shopper's. Log in with an operator's account to see this.", never},
		"not-found":              {"Not found", "There is nothing here for you. Check the address, and that you are logged in with the right account.", never},
		"sku-taken":              {"SKU taken", "Another product has it. Choose another SKU.", never},
		"unknown-sku":            {"A sale item is no product", "Create the product first, then the sale.", never},
	}[kind]
	return a, ok
}

// noticeOf words a refusal of the API. What is not in the table is worded as the API does.
func noticeOf(p *problem) notice {
	n := notice{Status: p.Status, Title: p.Title, Next: p.Detail, Kind: p.kind(), RequestID: p.RequestID}
	if a, ok := adviceOn(p.kind()); ok {
		n.Next, n.Again = a.next, a.again
		if n.Title == "" {
			n.Title = a.title
		}
	}
	return n
}

// reasonNotice words why something that had been accepted was refused.
func reasonNotice(reason string) notice {
	n := notice{Status: http.StatusOK, Kind: reason, Title: "Refused", Next: "It could not be done. Go back to the sale and try again."}
	if a, ok := adviceOn(reason); ok {
		n.Title, n.Next = a.title, a.next
	}
	return n
}

// explain words any error.
func (v *visit) explain(err error) notice {
	var tooLarge *http.MaxBytesError
	if p := refusal(err); p != nil {
		n := noticeOf(p)
		switch n.Kind {
		case "forbidden":
			n.Actions = []link{{"/login?next=%2Foperator", "Log in as an operator"}, {"/", "See the sales"}}
		default:
			n.Actions = []link{{"/", "See the sales"}}
		}
		return n
	}
	home := []link{{"/", "See the sales"}}
	switch {
	case errors.Is(err, errNoPage):
		return notice{Status: http.StatusNotFound, Kind: "not-found", Title: "Not found", Next: "There is no such page. Check the address, or begin at the sales.", Actions: home}
	case errors.Is(err, errForged):
		return notice{
			Status: http.StatusForbidden, Kind: "forged", Title: "This form is too old", Actions: home,
			Next: "Nothing was done. Go back, load the page again, and send the form anew; your browser must accept cookies.",
		}
	case errors.As(err, &tooLarge):
		return notice{Status: http.StatusRequestEntityTooLarge, Kind: "too-large", Title: "The form is too large", Next: "Nothing was done. Send less text.", Actions: home}
	case errors.Is(err, errForm):
		return notice{Status: http.StatusBadRequest, Kind: "form", Title: "The form cannot be read", Next: "Nothing was done. Go back, load the page again, and send it anew.", Actions: home}
	case errors.Is(err, errLogin):
		return notice{Status: http.StatusUnauthorized, Kind: "login", Title: "Not logged in", Next: "Log in, then try again.", Actions: []link{{"/login", "Log in"}}}
	case errors.Is(err, errDown):
		return notice{
			Status: http.StatusServiceUnavailable, Kind: "down", Title: "The shop does not answer", Again: sameKey, Actions: home,
			Next: "What you hold or have paid for is safe. Wait a few seconds, then try again.",
		}
	}
	return notice{Status: http.StatusInternalServerError, Kind: "internal", Title: "Something went wrong here", Next: "Try again in a moment.", Actions: home}
}

// said returns the good news that a redirect carries. Only these can be said: an address cannot put words on a page.
func said(name string) *notice {
	switch name {
	case "welcome":
		return &notice{Good: true, Title: "Welcome", Next: "Your account is ready. Log in to reserve."}
	case "accepted":
		return &notice{Good: true, Title: "Accepted", Next: "It is durable and takes effect in a moment."}
	case "done":
		return &notice{Good: true, Title: "Done", Next: "It is in effect."}
	case "product":
		return &notice{Good: true, Title: "Product created", Next: "Put it on sale next."}
	case "cancelled":
		return &notice{Good: true, Title: "Given back", Next: "The units are on sale again."}
	case "bye":
		return &notice{Good: true, Title: "Logged out", Next: "See you at the next sale."}
	}
	return nil
}
