// Command schema holds a document, YAML or JSON, to a JSON schema, and says what is wrong with it.
//
//	go run ./testenv/schema asyncapi-3.0.0.json docs/asyncapi.yaml
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: schema SCHEMA DOCUMENT")
		os.Exit(2)
	}
	if err := check(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "schema:", err)
		os.Exit(1)
	}
	fmt.Println(os.Args[2], "is what", os.Args[1], "asks for")
}

func check(schema, document string) error {
	b, err := os.ReadFile(schema)
	if err != nil {
		return err
	}
	rules, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%s: %w", schema, err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", rules); err != nil {
		return err
	}
	compiled, err := c.Compile("schema.json")
	if err != nil {
		return err
	}
	if b, err = os.ReadFile(document); err != nil {
		return err
	}
	var doc any
	if err := yaml.Unmarshal(b, &doc); err != nil { // every JSON document is YAML
		return fmt.Errorf("%s: %w", document, err)
	}
	if b, err = json.Marshal(doc); err != nil {
		return fmt.Errorf("%s: %w", document, err)
	}
	if doc, err = jsonschema.UnmarshalJSON(bytes.NewReader(b)); err != nil {
		return err
	}
	return compiled.Validate(doc)
}
