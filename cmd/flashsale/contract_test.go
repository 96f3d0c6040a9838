package main

import (
	"bytes"
	"encoding/json"
	"flashsale/httpapi"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// contract is the OpenAPI document as an http.RoundTripper: every request and answer that passes
// through it is held against the document. An answer of success to a request that the document
// calls wrong is a mistake too.
type contract struct {
	t    *testing.T
	doc  map[string]any
	next http.RoundTripper

	mu       sync.Mutex
	compiler *jsonschema.Compiler
	seen     map[string]int // "operationId status" → times
}

const documentURL = "https://flashsale.example/openapi.json"

func newContract(t *testing.T) *contract {
	t.Helper()
	b, err := httpapi.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	k := &contract{t: t, doc: doc.(map[string]any), compiler: jsonschema.NewCompiler(), seen: map[string]int{}}
	k.next = &http.Transport{MaxIdleConnsPerHost: 64}
	k.compiler.DefaultDraft(jsonschema.Draft2020)
	k.compiler.AssertFormat()
	if err := k.compiler.AddResource(documentURL, doc); err != nil {
		t.Fatal(err)
	}
	return k
}

// node is a place in the document and its JSON pointer.
type node struct {
	v   map[string]any
	ptr string
}

// child follows names, and references on the way.
func (k *contract) child(n node, names ...string) (node, bool) {
	for _, name := range names {
		v, ok := n.v[name].(map[string]any)
		if !ok {
			return node{}, false
		}
		n = k.resolve(node{v, n.ptr + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)})
	}
	return n, true
}

func (k *contract) resolve(n node) node {
	for {
		ref, ok := n.v["$ref"].(string)
		if !ok {
			return n
		}
		n = node{k.doc, ""}
		for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			n = node{n.v[name].(map[string]any), n.ptr + "/" + name}
		}
	}
}

// operation finds what a request is for. Literal segments win over parameters.
func (k *contract) operation(method, path string) (op, item node, ok bool) {
	best := -1
	paths, _ := k.child(node{k.doc, ""}, "paths")
	for pattern := range paths.v {
		want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
		literals, match := 0, len(want) == len(got)
		for i := 0; match && i < len(want); i++ {
			if !strings.HasPrefix(want[i], "{") {
				literals++
				match = want[i] == got[i]
			}
		}
		if !match || literals <= best {
			continue
		}
		in, _ := k.child(paths, pattern)
		if found, there := k.child(in, strings.ToLower(method)); there {
			op, item, ok, best = found, in, true, literals
		}
	}
	return op, item, ok
}

func (k *contract) valid(at string, v any) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	schema, err := k.compiler.Compile(documentURL + "#" + at)
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

func (k *contract) validJSON(at string, body []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return k.valid(at, v)
}

// RoundTrip implements http.RoundTripper.
func (k *contract) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent []byte
	if req.Body != nil {
		var err error
		if sent, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := k.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if req.Method == http.MethodHead {
		return resp, nil
	}
	for _, wrong := range k.check(req, sent, resp, body) {
		k.t.Errorf("%s %s with %.200q\n  answered %d %.400s\n  %s", req.Method, req.URL.Path, sent, resp.StatusCode, body, wrong)
	}
	return resp, nil
}

func (k *contract) check(req *http.Request, sent []byte, resp *http.Response, body []byte) (wrong []string) {
	op, item, ok := k.operation(req.Method, req.URL.Path)
	if !ok {
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
			return []string{"the operation is not in the document"}
		}
		if err := k.validJSON("/components/schemas/Problem", body); err != nil {
			wrong = append(wrong, err.Error())
		}
		return wrong
	}
	status := fmt.Sprint(resp.StatusCode)
	k.mu.Lock()
	k.seen[op.v["operationId"].(string)+" "+status]++
	k.mu.Unlock()
	answer, ok := k.child(op, "responses", status)
	if !ok {
		return []string{"the status is not in the document"}
	}
	wrong = append(wrong, k.checkAnswer(answer, resp, body)...)
	if resp.StatusCode < 300 {
		wrong = append(wrong, k.checkRequest(op, item, req, sent)...)
	}
	return wrong
}

func (k *contract) checkAnswer(answer node, resp *http.Response, body []byte) (wrong []string) {
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	content, ok := k.child(answer, "content", kind)
	if !ok {
		return []string{"the media type " + kind + " is not in the document"}
	}
	if schema, ok := content.v["schema"].(map[string]any); ok && strings.HasSuffix(kind, "json") {
		_ = schema
		if err := k.validJSON(content.ptr+"/schema", body); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	if kind == "application/problem+json" {
		var p httpapi.Problem
		if err := json.Unmarshal(body, &p); err != nil || p.Status != resp.StatusCode || p.RequestID != resp.Header.Get("X-Request-Id") {
			wrong = append(wrong, "the problem's status or request id is another than the answer's")
		}
	}
	headers, _ := k.child(answer, "headers")
	for name := range headers.v {
		h, _ := k.child(headers, name)
		value := resp.Header.Get(name)
		if value == "" {
			if h.v["required"] == true {
				wrong = append(wrong, "the header "+name+" is missing")
			}
			continue
		}
		if err := k.valid(h.ptr+"/schema", value); err != nil {
			wrong = append(wrong, name+": "+err.Error())
		}
	}
	return wrong
}

// checkRequest says what the document would have refused about a request that was answered well.
func (k *contract) checkRequest(op, item node, req *http.Request, sent []byte) (wrong []string) {
	if request, ok := k.child(op, "requestBody"); ok {
		content, _ := k.child(request, "content", "application/json")
		if err := k.validJSON(content.ptr+"/schema", sent); err != nil {
			wrong = append(wrong, "the request should have been refused: "+err.Error())
		}
	}
	named := map[string]bool{}
	for _, from := range []node{op, item} {
		list, _ := from.v["parameters"].([]any)
		for i, p := range list {
			param := k.resolve(node{p.(map[string]any), fmt.Sprint(from.ptr, "/parameters/", i)})
			name := param.v["name"].(string)
			named[name] = true
			if param.v["in"] == "header" && (param.v["required"] == true || req.Header.Get(name) != "") {
				if err := k.valid(param.ptr+"/schema", req.Header.Get(name)); err != nil {
					wrong = append(wrong, "the request should have been refused: "+err.Error())
				}
			}
		}
	}
	for name := range req.URL.Query() {
		if !named[name] {
			wrong = append(wrong, "the query parameter "+name+" is not in the document")
		}
	}
	return wrong
}

// unseen lists the documented answers of operations that nothing has provoked, but for those of
// which nobody can be made to show one here.
func (k *contract) unseen(except func(op string, status string) bool) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	paths, _ := k.doc["paths"].(map[string]any)
	for _, item := range paths {
		for method, v := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			op := v.(map[string]any)
			name := op["operationId"].(string)
			for status := range op["responses"].(map[string]any) {
				if k.seen[name+" "+status] == 0 && !except(name, status) {
					out = append(out, name+" "+status)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}
