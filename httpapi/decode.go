package httpapi

import (
	"errors"
	"flashsale/id"
	"io"
	"mime"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/gofiber/fiber/v2"
)

// The most bytes of a body: of a sale with its items, and of everything else.
const (
	maxBody     = 16 << 10
	maxSaleBody = 256 << 10
	// What is larger is not read to its end, and whoever is still sending may see a reset before the
	// answer. So the server reads more than any route takes.
	maxRead = 2 * maxSaleBody
)

// decode reads the body once, strictly: JSON in UTF-8, every name known, case-sensitive and only
// once, numbers that fit, and nothing after it.
func decode[T any](c *fiber.Ctx) (T, error) {
	if len(c.Body()) > maxBody {
		var none T
		return none, fiber.ErrRequestEntityTooLarge
	}
	return decodeLarge[T](c)
}

// decodeLarge is decode for the body of a sale.
func decodeLarge[T any](c *fiber.Ctx) (T, error) {
	var v T
	if len(c.Body()) > maxSaleBody {
		return v, fiber.ErrRequestEntityTooLarge
	}
	if !isJSON(c.Get("Content-Type")) {
		return v, errMediaType
	}
	if c.Get("Content-Encoding") != "" {
		return v, errMediaType
	}
	return decodeJSON[T](c.Body())
}

func isJSON(mediaType string) bool {
	if mediaType == "application/json" {
		return true
	}
	kind, params, err := mime.ParseMediaType(mediaType)
	return err == nil && kind == "application/json" && (params["charset"] == "" || strings.EqualFold(params["charset"], "utf-8"))
}

func decodeJSON[T any](body []byte) (T, error) {
	var v T
	if err := json.Unmarshal(body, &v, json.RejectUnknownMembers(true)); err != nil {
		return v, badBody{reason(err)}
	}
	return v, nil
}

// badBody is a body that cannot be read, and why.
type badBody struct{ why string }

func (b badBody) Error() string { return b.why }

// reason says what is wrong in words of ours: the library's name the Go types.
func reason(err error) string {
	var syntax *jsontext.SyntacticError
	var meaning *json.SemanticError
	switch {
	case errors.Is(err, json.ErrUnknownName):
		if errors.As(err, &meaning) {
			return "The body has a field that is not known here: " + string(meaning.JSONPointer) + "."
		}
		return "The body has a field that is not known here."
	case errors.Is(err, jsontext.ErrDuplicateName):
		return "The body has the same field twice."
	case errors.As(err, &syntax):
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return "The body ends before the JSON does."
		}
		return "The body is not valid JSON in UTF-8, at byte " + strconv.FormatInt(syntax.ByteOffset, 10) + "."
	case errors.As(err, &meaning):
		at := string(meaning.JSONPointer)
		if at == "" {
			at = "the body"
		}
		return "The value of " + at + " has the wrong type or does not fit: whole numbers have no fraction, ids are UUIDs, times are RFC 3339."
	}
	return "The body cannot be read."
}

// query reads the query string: only these names, each at most once.
func query(c *fiber.Ctx, names ...string) (map[string]string, error) {
	out := map[string]string{}
	var bad error
	c.Context().QueryArgs().VisitAll(func(k, v []byte) {
		name := string(k)
		known := false
		for _, n := range names {
			known = known || n == name
		}
		_, twice := out[name]
		switch {
		case !known:
			bad = badBody{"The query parameter " + strconv.Quote(name) + " is not known here; use " + strings.Join(names, ", ") + "."}
		case twice:
			bad = badBody{"The query parameter " + name + " is there twice."}
		}
		out[name] = string(v)
	})
	return out, bad
}

// wholeNumber reads an optional query parameter of 0 or more.
func wholeNumber(q map[string]string, name string) (int64, error) {
	s, ok := q[name]
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 53)
	if err != nil {
		return 0, badBody{"The query parameter " + name + " is a whole number of 0 or more."}
	}
	return int64(n), nil
}

// cursorID reads an optional cursor of ours.
func cursorID(q map[string]string, name string) (id.ID, error) {
	s, ok := q[name]
	if !ok {
		return id.ID{}, nil
	}
	v, err := id.Parse(s)
	if err != nil {
		return v, badBody{"The query parameter " + name + " is not one that an answer has given; take the next link as it is."}
	}
	return v, nil
}
