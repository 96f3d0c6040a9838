package metrics

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const rulesDir = "../../deploy/prometheus/"

func readYAML[T any](t *testing.T, path string) (v T) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestRules: Prometheus takes the configuration and the rules, the rules pass their tests, and every alert has a test in which it
// fires, one in which it does not, and a section of the documentation that says what to do.
func TestRules(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"check", "config", rulesDir + "prometheus.yml"}, {"check", "rules", rulesDir + "rules.yml"}, {"test", "rules", rulesDir + "rules_test.yml"},
	} {
		if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v (Debian: apt-get install prometheus)\n%s", strings.Join(args, " "), err, out)
		}
	}
	rules := readYAML[struct {
		Groups []struct {
			Rules []struct{ Alert, Record string }
		}
	}](t, rulesDir+"rules.yml")
	tests := readYAML[struct {
		Tests []struct {
			Alerts []struct {
				Name string `yaml:"alertname"`
				Exp  []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}](t, rulesDir+"rules_test.yml")
	fires, rests := map[string]bool{}, map[string]bool{}
	for _, one := range tests.Tests {
		for _, a := range one.Alerts {
			if len(a.Exp) > 0 {
				fires[a.Name] = true
			} else {
				rests[a.Name] = true
			}
		}
	}
	docs, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var explained []string
	for _, m := range regexp.MustCompile(`(?m)^\*\*(Flashsale\w+)\*\*`).FindAllStringSubmatch(string(docs), -1) {
		explained = append(explained, m[1])
	}
	var alerts []string
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			alerts = append(alerts, r.Alert)
			if !fires[r.Alert] || !rests[r.Alert] {
				t.Errorf("%s: tested to fire %v, tested not to fire %v", r.Alert, fires[r.Alert], rests[r.Alert])
			}
		}
	}
	if !slices.Equal(explained, alerts) {
		t.Errorf("docs/operations.md explains\n%v, the rules have\n%v", explained, alerts)
	}
}
