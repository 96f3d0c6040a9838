package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/account"
	"flashsale/catalog"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/reservation"
	"flashsale/telemetry/logs"
	"flashsale/transport"
	"strconv"

	"github.com/gofiber/fiber/v2"
)

// Errors of the API itself.
var (
	errNoToken    = errors.New("httpapi: no token")
	errForbidden  = errors.New("httpapi: not an operator")
	errMediaType  = errors.New("httpapi: not application/json")
	errKey        = errors.New("httpapi: no usable Idempotency-Key")
	errInFlight   = errors.New("httpapi: the same key is being handled")
	errTooFast    = errors.New("httpapi: the shopper asks faster than one may")
	errOverloaded = errors.New("httpapi: too many requests under way")
	errDraining   = errors.New("httpapi: shutting down")
	errNotReady   = errors.New("httpapi: a part is not ready")
	errDeclined   = errors.New("httpapi: payment declined")
)

// kind is one kind of problem: the last part of its type URI, its status, title, and what to do.
type kind struct {
	name   string
	status int
	title  string
	advice string
	retry  int // seconds for Retry-After; 0 for none
}

// mapping ties an error to its kind.
type mapping struct {
	err  error
	kind kind
}

// mappings is the one table from errors to answers; the first that matches counts.
func mappings() []mapping {
	notFound := kind{"not-found", 404, "Not found", "There is nothing here for you; check the address.", 0}
	overloaded := kind{"overloaded", 503, "Overloaded", "Nothing was done. Wait as Retry-After says, then repeat the request with the same Idempotency-Key.", 1}
	badToken := kind{"unauthorized", 401, "No valid token", "Log in or refresh your token, and send it as Authorization: Bearer.", 0}
	keyReused := kind{"idempotency-key-reused", 422, "Idempotency-Key used for another request", "Use a new key for a new request.", 0}
	illegal := kind{"illegal-move", 409, "Not possible in its present state", "Read it again to see its state.", 0}
	inFlightKind := kind{"in-flight", 409, "The same request is being handled", "Wait a moment, then repeat it with the same key.", 1}
	return []mapping{
		{errNoToken, badToken},
		{account.ErrTokenInvalid, badToken},
		{account.ErrTokenExpired, kind{"token-expired", 401, "The token has expired", "Refresh it with your refresh token, or log in.", 0}},
		{account.ErrRefreshReused, kind{"refresh-reused", 401, "The refresh token was used before", "Every token of that login is revoked; log in again.", 0}},
		{account.ErrBadCredentials, kind{"bad-credentials", 401, "Wrong e-mail address or password", "Check both.", 0}},
		{errTooFast, rateLimited()},
		{errForbidden, kind{"forbidden", 403, "Operators only", "Log in with an operator's account.", 0}},
		{account.ErrEmailTaken, kind{"email-taken", 409, "E-mail address taken", "Log in instead.", 0}},
		{account.ErrInvalidEmail, kind{"invalid-email", 422, "Not an e-mail address", "Use one such as name@example.com.", 0}},
		{account.ErrWeakPassword, kind{"weak-password", 422, "Password too short or too long", "Use 10 to 128 characters.", 0}},
		{account.ErrBusy, kind{"login-busy", 503, "Too many log in at the moment", "Wait as Retry-After says, then try again.", 1}},

		{errMediaType, kind{"unsupported-media-type", 415, "Not application/json", "Send the body as application/json in UTF-8, uncompressed.", 0}},
		{fiber.ErrRequestEntityTooLarge, kind{"body-too-large", 413, "Body too large", "Send less.", 0}},
		{fiber.ErrMethodNotAllowed, kind{"method-not-allowed", 405, "Method not allowed", "See the Allow header.", 0}},
		{errKey, kind{"idempotency-key", 400, "Idempotency-Key missing or malformed", "Send a fresh key of 1 to 128 visible ASCII characters, and the same one when you repeat the request.", 0}},
		{errInFlight, inFlightKind},
		{reservation.ErrInFlight, inFlightKind},

		{reservation.ErrSoldOut, kind{"sold-out", 409, "Sold out", "Every unit is paid for.", 0}},
		{reservation.ErrHeldOut, kind{"held-out", 409, "All held", "Every unit is held by somebody; some may come back. Wait as Retry-After says, then ask again with a new key.", 1}},
		{reservation.ErrLimitReached, kind{"limit-reached", 409, "Limit per shopper reached", "You have as many as one shopper may have.", 0}},
		{reservation.ErrTooManyUnpaid, kind{"too-many-unpaid", 409, "Too many holds that are not paid for", "Pay for what you hold, or cancel it; then ask again with a new key.", 0}},
		{reservation.ErrIllegalMove, illegal},
		{payment.ErrIllegalMove, illegal},
		{catalog.ErrIllegalMove, illegal},
		{catalog.ErrEnded, illegal},
		{reservation.ErrExpired, kind{"expired", 410, "The hold has expired", "Reserve again, with a new key.", 0}},
		{reservation.ErrSaleNotOpen, kind{"sale-not-open", 422, "The sale is not open", "See when it opens, and whether it is paused or over.", 0}},
		{reservation.ErrUnknownItem, kind{"unknown-item", 422, "The sale has no such item", "Read the sale to see its items.", 0}},
		{reservation.ErrQuantity, kind{"quantity", 422, "Quantity not allowed", "Ask for 1 or more, up to the limit per shopper.", 0}},
		{order.ErrQuantity, kind{"quantity", 422, "Quantity not allowed", "Ask for 1 to 1000.", 0}},
		{reservation.ErrPrice, kind{"price-changed", 422, "The price is another", "Read the sale again and send the price you see, or none.", 0}},
		{reservation.ErrKeyReused, keyReused},
		{payment.ErrKeyReused, keyReused},
		{reservation.ErrUncertain, uncertain()},
		{context.DeadlineExceeded, uncertain()},
		{errDeclined, kind{"payment-declined", 402, "Payment declined", "The hold is released. Reserve again and use another means of payment.", 0}},
		{order.ErrCheckedOut, kind{"cart-checked-out", 409, "The cart is checked out", "Create a new cart.", 0}},
		{order.ErrCartFull, kind{"cart-full", 409, "The cart is full", "Create another cart.", 0}},
		{catalog.ErrSKUTaken, kind{"sku-taken", 409, "SKU taken", "Choose another SKU.", 0}},
		{catalog.ErrUnknownSKU, kind{"unknown-sku", 422, "A sale item is no product", "Create the product first.", 0}},

		{reservation.ErrOverloaded, overloaded},
		{errOverloaded, overloaded},
		{transport.ErrOverloaded, overloaded},
		{transport.ErrUnavailable, overloaded},
		{errDraining, kind{"draining", 503, "Shutting down", "Send requests to another instance.", 1}},
		{errNotReady, kind{"not-ready", 503, "Not ready", "A part that this needs does not answer yet.", 1}},

		{reservation.ErrNotFound, notFound},
		{order.ErrNotFound, notFound},
		{payment.ErrNotFound, notFound},
		{catalog.ErrNotFound, notFound},
		{fiber.ErrNotFound, notFound},
		{account.ErrNotFound, notFound},
	}
}

// Kinds whose detail depends on the request.
func malformed() kind {
	return kind{"malformed", 400, "The request cannot be read", "Send what the OpenAPI document says.", 0}
}

func invalidKind() kind {
	return kind{"invalid", 422, "A value is not allowed", "The detail says which, and what is.", 0}
}

func internal() kind {
	return kind{"internal", 500, "Something went wrong here", "It is logged under the request id. Repeat the request with the same Idempotency-Key, or tell the operator the request id.", 0}
}

func uncertain() kind {
	return kind{"uncertain", 503, "Not known whether it happened", "Repeat the request with the same Idempotency-Key: it happens at most once.", 1}
}

// rateLimited is said of a shopper here, and of an address by the server in front (nginx/shared/problems.conf).
func rateLimited() kind {
	return kind{"rate-limited", 429, "Too many requests", "Wait as Retry-After says, then repeat the request with the same Idempotency-Key.", 1}
}

// kinds lists every kind of problem.
func kinds() []kind {
	all := []kind{malformed(), invalidKind(), internal()}
	for _, m := range mappings() {
		all = append(all, m.kind)
	}
	return all
}

// Problem is the body of every error: RFC 9457.
type Problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Instance  string `json:"instance"`
	RequestID string `json:"request_id"`
}

func (a *API) classify(err error) (k kind, detail string) {
	var bad badBody
	if errors.As(err, &bad) {
		return malformed(), bad.why
	}
	if errors.Is(err, catalog.ErrInvalid) {
		return invalidKind(), err.Error()
	}
	for _, m := range a.kinds {
		if errors.Is(err, m.err) {
			return m.kind, m.kind.advice
		}
	}
	var f *fiber.Error
	if errors.As(err, &f) && f.Code >= 400 && f.Code < 500 {
		for _, m := range a.kinds {
			if m.kind.status == f.Code && (f.Code == 404 || f.Code == 405 || f.Code == 413) {
				return m.kind, m.kind.advice
			}
		}
		return malformed(), malformed().advice
	}
	if a.cfg.Away != nil && a.cfg.Away(err) {
		return uncertain(), uncertain().advice
	}
	return internal(), internal().advice
}

// fail writes the problem of an error, or has nginx write it. It is the only place that does.
func (a *API) fail(c *fiber.Ctx, err error) error {
	if errors.Is(err, fiber.ErrRequestTimeout) { // no whole request has come: the client may take an answer now for that to its next one
		return c.Context().Conn().Close()
	}
	k, detail := a.classify(err)
	if request(c) == "" { // the server refused it before the frame: too large, or no HTTP
		c.SetUserContext(logs.With(context.Background(), logs.Facts{Request: requestID(c, a.cfg.Clock())}))
		c.Set("X-Request-Id", request(c))
	}
	if k.status == 500 {
		a.cfg.Log.ErrorContext(c.UserContext(), "request failed", "method", c.Method(), "path", c.Path(), "error", err)
	}
	if k.status == 401 {
		c.Set("WWW-Authenticate", `Bearer realm="flashsale"`)
	}
	if again := a.paces.note(c.Method()+route(c), k.name == "overloaded" || k.name == "uncertain"); again > 0 {
		k.retry = again
	}
	var many crowded
	if errors.As(err, &many) {
		k.retry = later(int(many.turns))
		if many.again {
			c.Set("X-Accel-Expires", "1")
			return c.Status(away + k.retry).Send(nil)
		}
	}
	if k.retry > 0 {
		c.Set("Retry-After", strconv.Itoa(k.retry))
	}
	b, err := json.Marshal(Problem{
		Type: "/problems/" + k.name, Title: k.title, Status: k.status, Detail: detail, Instance: c.Path(), RequestID: request(c),
	})
	if err != nil {
		return err
	}
	c.Response().Header.SetContentType("application/problem+json")
	return c.Status(k.status).Send(b)
}

// describeProblem explains a type URI.
func describeProblem(c *fiber.Ctx) error {
	for _, k := range kinds() {
		if k.name == c.Params("name") {
			c.Set("Content-Type", "text/plain; charset=utf-8")
			return c.SendString(k.title + " (" + strconv.Itoa(k.status) + ")\n\n" + k.advice + "\n")
		}
	}
	return fiber.ErrNotFound
}
