package httpapi

import (
	_ "embed"
	"encoding/json"
	"fmt"

	"github.com/gofiber/fiber/v2"
	"gopkg.in/yaml.v3"
)

//go:embed openapi.yaml
var openAPIYAML []byte

// OpenAPI returns the document of the API, OpenAPI 3.1 in JSON.
func OpenAPI() ([]byte, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(openAPIYAML, &doc); err != nil {
		return nil, fmt.Errorf("httpapi: openapi.yaml: %w", err)
	}
	return json.Marshal(doc)
}

func (a *API) openAPI(c *fiber.Ctx) error {
	b, err := OpenAPI()
	if err != nil {
		return err
	}
	c.Set("Content-Type", "application/json")
	return c.Send(b)
}
