package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

// Mode is a wiring: how the steps of the flow travel.
type Mode string

// The wirings.
const (
	Sync  Mode = "sync"  // calls that wait for the decision: in process, or HTTP between services
	Async Mode = "async" // events that are acknowledged first: a durable queue, or RabbitMQ
)

// Config is everything that can be set. It comes from a file, then the environment, then flags;
// the later wins. It is validated once and never changed after.
type Config struct {
	Mode           Mode
	Roles          []string
	Listen         string            // public API, host:port
	InternalListen string            // calls between services, host:port
	Peers          map[string]string // service → base URL of its internal listener
	InternalToken  string            // what services show each other
	Data           string            // folder of the embedded default
	DatabaseURL    string            // with {database} in place of the database's name
	DatabaseURLs   map[string]string // database → URL, instead of DatabaseURL
	DatabaseConns  int               // connections per database
	RedisURLs      []string          // one a shard, in a fixed order
	CacheURL       string            // Redis for the catalogue's cache
	AMQPURL        string
	ConsoleAPI     string // base URL of the API for the console; this process's own when it runs everything
	Shards         int    // of the embedded gate

	TokenSecrets     []string // the first signs, all verify
	AccessTTL        time.Duration
	PasswordMemory   int // argon2id, KiB
	PasswordSlots    int // hashes at the same time
	OperatorEmail    string
	OperatorPassword string

	RequestTimeout time.Duration
	MaxRequests    int // under way at the same time; beyond it 503
	PendingFor     time.Duration
	ExpireEvery    time.Duration
	KeepEvery      time.Duration
	ShardDeadAfter time.Duration
	MaxPaying      int // payments under way at the same time, in all processes; beyond it 503
	MaxUnpaid      int // holds of one shopper, over all sales; 0: any number
	ShopperRate    int // requests of one shopper a second; 0: any number
	DrainFor       time.Duration
	DrainNotice    time.Duration

	PaymentLatency       time.Duration
	PaymentDeclineRate   float64
	PaymentTimeoutRate   float64
	PaymentLostReplyRate float64 // charged, but the answer is lost
	PaymentPatience      time.Duration
	ProbeAfter           time.Duration
	SweepAfter           time.Duration

	SMTPURL       string // smtp://user:password@host:port
	MailFrom      string
	WebhookURL    string
	WebhookSecret string

	OTLPEndpoint string // where traces go; empty: off
	TraceRatio   float64
	TraceSlow    time.Duration

	LogLevel  string
	LogFormat string // text or json

	AdminListen  string // /metrics and /debug/pprof, host:port; not served when empty
	LookEvery    time.Duration
	AuditEvery   time.Duration // 0: only when an operator asks
	Instance     string        // which of the processes with the same roles; the host's name and the port of Listen unless set
	InfluxURL    string        // where CPU and memory are written; nowhere when empty
	InfluxToken  string
	InfluxOrg    string
	InfluxBucket string
	CollectEvery time.Duration
}

// The databases, one a service.
func databases() map[string]string {
	return map[string]string{
		"inventory": "inventory", "order": "orders", "payment": "payments", "catalog": "catalog",
		"account": "accounts", "notification": "notifications",
	}
}

func allRoles() []string {
	return []string{"reservation", "inventory", "order", "payment", "catalog", "account", "notification", "console"}
}

// setting ties a field to its names and its text. The table is the only place that lists them.
type setting struct {
	name   string // of the flag; the environment's is FLASHSALE_ and the name in capitals, unless env is set
	env    string
	secret bool
	help   string
	value  pflag.Value
}

func (c *Config) settings() []setting {
	return []setting{
		{name: "mode", help: "wiring: sync (calls that wait) or async (events)", value: (*modeValue)(&c.Mode)},
		{name: "roles", help: "services to run in this process, with commas", value: &listValue{&c.Roles}},
		{name: "listen", help: "address of the public API", value: (*textValue)(&c.Listen)},
		{name: "internal-listen", help: "address for calls between services; needed when roles are split", value: (*textValue)(&c.InternalListen)},
		{name: "peers", help: "where the other services listen internally: inventory=http://host:port,…", value: &mapValue{&c.Peers}},
		{name: "internal-token", secret: true, help: "what services show each other", value: (*textValue)(&c.InternalToken)},
		{name: "data", help: "folder of the embedded default", value: (*textValue)(&c.Data)},
		{name: "database-url", env: "DATABASE_URL", secret: true, help: "PostgreSQL, with {database} for the database's name", value: (*textValue)(&c.DatabaseURL)},
		{name: "database-urls", env: "DATABASE_URLS", secret: true, help: "or each by itself: inventory=postgres://…,orders=…", value: &mapValue{&c.DatabaseURLs}},
		{name: "database-conns", help: "connections per database", value: &intValue{&c.DatabaseConns}},
		{name: "redis-urls", env: "REDIS_URLS", secret: true, help: "Redis servers of the gate, one a shard, with commas", value: &listValue{&c.RedisURLs}},
		{name: "cache-url", env: "CACHE_URL", secret: true, help: "Redis for the catalogue's cache (default: in memory)", value: (*textValue)(&c.CacheURL)},
		{name: "amqp-url", env: "AMQP_URL", secret: true, help: "RabbitMQ, for the async wiring", value: (*textValue)(&c.AMQPURL)},
		{name: "console-api", help: "where the console finds the API, when its services run elsewhere: http://host:port", value: (*textValue)(&c.ConsoleAPI)},
		{name: "shards", help: "shards of the embedded gate", value: &intValue{&c.Shards}},
		{name: "token-secrets", env: "TOKEN_SECRETS", secret: true, help: "signing secrets of 32 bytes or more, with commas; the first signs", value: &listValue{&c.TokenSecrets}},
		{name: "access-ttl", help: "how long an access token is valid", value: (*durationValue)(&c.AccessTTL)},
		{name: "password-memory", help: "memory of one password hash, KiB", value: &intValue{&c.PasswordMemory}},
		{name: "password-slots", help: "password hashes at the same time", value: &intValue{&c.PasswordSlots}},
		{name: "operator-email", env: "OPERATOR_EMAIL", help: "the first operator's e-mail address", value: (*textValue)(&c.OperatorEmail)},
		{name: "operator-password", env: "OPERATOR_PASSWORD", secret: true, help: "the first operator's password", value: (*textValue)(&c.OperatorPassword)},
		{name: "request-timeout", help: "bound on one request", value: (*durationValue)(&c.RequestTimeout)},
		{name: "max-requests", help: "requests under way at the same time; beyond it 503", value: &intValue{&c.MaxRequests}},
		{name: "max-paying", help: "payments under way at the same time, in all processes; beyond it 503. From half of it on, or when more payments or decisions wait than get done in time, reservations are turned away, too", value: &intValue{&c.MaxPaying}},
		{name: "max-unpaid", help: "reservations that a shopper may hold unpaid at the same time, over all sales; 0 for any number", value: &intValue{&c.MaxUnpaid}},
		{name: "shopper-rate", help: "requests a second that a shopper may send to this process, four seconds' worth at once; beyond it 429; 0 for any number", value: &intValue{&c.ShopperRate}},
		{name: "pending-for", help: "how long a take may stay undecided before the ledger is asked", value: (*durationValue)(&c.PendingFor)},
		{name: "expire-every", help: "interval of the expirer", value: (*durationValue)(&c.ExpireEvery)},
		{name: "keep-every", help: "interval of the gate's keeper", value: (*durationValue)(&c.KeepEvery)},
		{name: "shard-dead-after", help: "how long a shard of the gate may be away before the others get its stock", value: (*durationValue)(&c.ShardDeadAfter)},
		{name: "drain-for", help: "how long a stop may take", value: (*durationValue)(&c.DrainFor)},
		{name: "drain-notice", help: "how long /readyz says no at a stop before new requests are refused; more than a load balancer's interval", value: (*durationValue)(&c.DrainNotice)},
		{name: "payment-latency", help: "simulated provider: most time to answer", value: (*durationValue)(&c.PaymentLatency)},
		{name: "payment-decline-rate", help: "simulated provider: share declined", value: &rateValue{&c.PaymentDeclineRate}},
		{name: "payment-timeout-rate", help: "simulated provider: share that never answers, nothing charged", value: &rateValue{&c.PaymentTimeoutRate}},
		{name: "payment-lost-reply-rate", help: "simulated provider: share charged, the answer lost", value: &rateValue{&c.PaymentLostReplyRate}},
		{name: "payment-patience", help: "how long to wait for the provider", value: (*durationValue)(&c.PaymentPatience)},
		{name: "probe-after", help: "age at which a payment without an outcome is asked about", value: (*durationValue)(&c.ProbeAfter)},
		{name: "sweep-after", help: "age at which what should have followed from a step is looked for, where events go through a queue", value: (*durationValue)(&c.SweepAfter)},
		{name: "smtp-url", env: "SMTP_URL", secret: true, help: "send notifications by mail: smtp://user:password@host:port", value: (*textValue)(&c.SMTPURL)},
		{name: "mail-from", help: "sender of the mail", value: (*textValue)(&c.MailFrom)},
		{name: "webhook-url", env: "WEBHOOK_URL", secret: true, help: "or send notifications to a webhook", value: (*textValue)(&c.WebhookURL)},
		{name: "webhook-secret", env: "WEBHOOK_SECRET", secret: true, help: "signs the webhook's requests", value: (*textValue)(&c.WebhookSecret)},
		{name: "otlp-endpoint", secret: true, help: "send traces over OTLP/HTTP: http://host:4318 (default: no traces)", value: (*textValue)(&c.OTLPEndpoint)},
		{name: "trace-ratio", help: "share of the traces that is kept from the first service on", value: &rateValue{&c.TraceRatio}},
		{name: "trace-slow", help: "besides, each process keeps its part of what failed or took this long; 0 for what failed only", value: (*durationValue)(&c.TraceSlow)},
		{name: "log-level", help: "debug, info, warn or error", value: (*textValue)(&c.LogLevel)},
		{name: "log-format", help: "text or json", value: (*textValue)(&c.LogFormat)},
		{name: "admin-listen", help: "address of /metrics and /debug/pprof, for operators only (default: not served)", value: (*textValue)(&c.AdminListen)},
		{name: "look-every", help: "interval of looking at stock, outboxes and queues for the metrics", value: (*durationValue)(&c.LookEvery)},
		{name: "audit-every", help: "interval of audits for the metrics; 0s for none but the operators'", value: (*durationValue)(&c.AuditEvery)},
		{name: "instance", help: "name of this process among those with the same roles (default: host name and port)", value: (*textValue)(&c.Instance)},
		{name: "influx-url", env: "INFLUX_URL", help: "InfluxDB 2.7 or 1.8 that CPU and memory are written to (default: none)", value: (*textValue)(&c.InfluxURL)},
		{name: "influx-token", env: "INFLUX_TOKEN", secret: true, help: "InfluxDB's token; user:password for 1.8", value: (*textValue)(&c.InfluxToken)},
		{name: "influx-org", env: "INFLUX_ORG", help: "InfluxDB's organisation; 1.8 has none", value: (*textValue)(&c.InfluxOrg)},
		{name: "influx-bucket", env: "INFLUX_BUCKET", help: "InfluxDB's bucket; database/retention-policy for 1.8", value: (*textValue)(&c.InfluxBucket)},
		{name: "collect-every", help: "interval of reading CPU and memory", value: (*durationValue)(&c.CollectEvery)},
	}
}

func defaults() Config {
	return Config{
		Mode: Sync, Roles: allRoles(), Listen: "127.0.0.1:8080", Data: "./data", DatabaseConns: 16, Shards: 4,
		AccessTTL: 15 * time.Minute, PasswordMemory: 19 << 10, PasswordSlots: 2,
		OperatorEmail:  "operator@example.com",
		RequestTimeout: 10 * time.Second, MaxRequests: 4096, MaxPaying: 1024, MaxUnpaid: 10, ShopperRate: 50, PendingFor: 30 * time.Second,
		ExpireEvery: 250 * time.Millisecond, KeepEvery: 250 * time.Millisecond, ShardDeadAfter: 10 * time.Second, DrainFor: 20 * time.Second, DrainNotice: time.Second,
		PaymentLatency: 20 * time.Millisecond, PaymentPatience: 3 * time.Second, ProbeAfter: 5 * time.Second, SweepAfter: 30 * time.Second,
		MailFrom: "shop@example.com", TraceRatio: 0.01, TraceSlow: time.Second, LogLevel: "info", LogFormat: "text",
		LookEvery: time.Second, InfluxOrg: "flashsale", InfluxBucket: "flashsale", CollectEvery: time.Second,
	}
}

func (s setting) envName() string {
	if s.env != "" {
		return s.env
	}
	return "FLASHSALE_" + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// bind adds the flags of a config to a command.
func (c *Config) bind(flags *pflag.FlagSet) {
	for _, s := range c.settings() {
		flags.Var(s.value, s.name, s.help+" ["+s.envName()+"]")
	}
	flags.String("config", "", "file of settings (YAML, the flags' names as keys) [FLASHSALE_CONFIG]")
}

// read fills the config from the command line, the environment and the file, and validates it.
func (c *Config) read(flags *pflag.FlagSet) error {
	if err := c.fill(flags, os.Getenv); err != nil {
		return err
	}
	return c.validate()
}

// fill sets, from file and environment, what no flag has set.
func (c *Config) fill(flags *pflag.FlagSet, getenv func(string) string) error {
	path, err := flags.GetString("config")
	if err != nil {
		return err
	}
	if path == "" {
		path = getenv("FLASHSALE_CONFIG")
	}
	file := map[string]yaml.Node{}
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("configuration file: %w", err)
		}
		if err := yaml.Unmarshal(b, &file); err != nil {
			return fmt.Errorf("configuration file %s: %w", path, err)
		}
	}
	for _, s := range c.settings() {
		node, inFile := file[s.name]
		delete(file, s.name)
		if flags.Changed(s.name) {
			continue
		}
		if text := getenv(s.envName()); text != "" {
			if err := s.value.Set(text); err != nil {
				return fmt.Errorf("environment %s: %w", s.envName(), err)
			}
			continue
		}
		if inFile {
			if err := s.value.Set(flatten(node)); err != nil {
				return fmt.Errorf("configuration file %s, line %d, %s: %w", path, node.Line, s.name, err)
			}
		}
	}
	if err := c.fillSecrets(getenv(secretsVar)); err != nil {
		return err
	}
	if err := c.checkURLs(); err != nil {
		return err
	}
	for name, node := range file {
		return fmt.Errorf("configuration file %s, line %d: there is no setting %q; `flashsale serve --help` lists them", path, node.Line, name)
	}
	return nil
}

// fillSecrets puts the secrets of a folder where settings say {secret:NAME}.
func (c *Config) fillSecrets(dir string) error {
	for _, s := range c.settings() {
		text, err := withSecrets(s.value.String(), dir)
		if err == nil && text != s.value.String() {
			err = s.value.Set(text)
		}
		if err != nil {
			return fmt.Errorf("setting %s: %w", s.name, err)
		}
	}
	return nil
}

// checkURLs refuses what is no URL without repeating it: the error of whoever opens it would, password
// and all.
func (c *Config) checkURLs() error {
	named := map[string][]string{
		"DATABASE_URL": {strings.ReplaceAll(c.DatabaseURL, "{database}", "x")}, "REDIS_URLS": c.RedisURLs, "CACHE_URL": {c.CacheURL},
		"AMQP_URL": {c.AMQPURL}, "SMTP_URL": {c.SMTPURL}, "WEBHOOK_URL": {c.WebhookURL}, "INFLUX_URL": {c.InfluxURL}, "otlp-endpoint": {c.OTLPEndpoint}, "DATABASE_URLS": slices.Collect(maps.Values(c.DatabaseURLs)),
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		for _, text := range named[name] {
			if u, err := url.Parse(text); err != nil || text != "" && u.Scheme == "" {
				return fmt.Errorf("%s is not a URL; set scheme://user:password@host:port/…, with special characters in the password as %%XX", name)
			}
		}
	}
	return nil
}

// flatten writes a YAML value as the flag would have it: lists with commas, maps as key=value.
func flatten(n yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		parts := make([]string, len(n.Content))
		for i, v := range n.Content {
			parts[i] = v.Value
		}
		return strings.Join(parts, ",")
	case yaml.MappingNode:
		var parts []string
		for i := 0; i+1 < len(n.Content); i += 2 {
			parts = append(parts, n.Content[i].Value+"="+n.Content[i+1].Value)
		}
		return strings.Join(parts, ",")
	}
	return n.Value
}

// embedded reports whether this process needs no server.
func (c *Config) embedded() bool { return c.DatabaseURL == "" && len(c.DatabaseURLs) == 0 }

func (c *Config) has(role string) bool { return slices.Contains(c.Roles, role) }

// databaseURL returns the URL of a role's database.
func (c *Config) databaseURL(role string) string {
	name := databases()[role]
	if u := c.DatabaseURLs[name]; u != "" {
		return u
	}
	return strings.ReplaceAll(c.DatabaseURL, "{database}", name)
}

// validate returns every mistake, each with what to do.
func (c *Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	c.validateRoles(bad)
	if c.embedded() {
		if len(c.Roles) != len(allRoles()) {
			bad("the embedded default runs all roles in one process; to split them set DATABASE_URL, REDIS_URLS and, for async, AMQP_URL")
		}
		if len(c.RedisURLs) > 0 || c.AMQPURL != "" {
			bad("REDIS_URLS or AMQP_URL without DATABASE_URL; set DATABASE_URL too, or none of them for the embedded default")
		}
		if c.Data == "" {
			bad("data is empty; name a folder for the embedded default")
		}
		if c.Shards < 1 || c.Shards > 64 {
			bad("shards is %d; set 1 to 64", c.Shards)
		}
	} else {
		c.validateServers(bad)
	}
	for name, addr := range map[string]string{"listen": c.Listen, "internal-listen": c.InternalListen, "admin-listen": c.AdminListen} {
		if addr == "" && name != "listen" {
			continue
		}
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			bad("%s is %q; set host:port, such as 127.0.0.1:8080", name, addr)
		}
	}
	for name, d := range map[string]time.Duration{
		"access-ttl": c.AccessTTL, "request-timeout": c.RequestTimeout, "pending-for": c.PendingFor, "expire-every": c.ExpireEvery,
		"keep-every": c.KeepEvery, "shard-dead-after": c.ShardDeadAfter, "drain-for": c.DrainFor, "payment-patience": c.PaymentPatience, "probe-after": c.ProbeAfter, "sweep-after": c.SweepAfter,
	} {
		if d <= 0 {
			bad("%s is %s; set a duration above zero, such as 5s", name, d)
		}
	}
	if c.DrainNotice < 0 || c.DrainNotice >= c.DrainFor && c.DrainFor > 0 {
		bad("drain-notice is %s; set zero or more, and less than drain-for, which is %s", c.DrainNotice, c.DrainFor)
	}
	if u, err := url.Parse(c.OTLPEndpoint); c.OTLPEndpoint != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
		bad("otlp-endpoint is no address of an OTLP receiver over HTTP; set http://host:4318, or nothing for no traces")
	}
	if c.TraceSlow < 0 {
		bad("trace-slow is %s; set zero or more", c.TraceSlow)
	}
	if c.PaymentLatency < 0 {
		bad("payment-latency is %s; set zero or more", c.PaymentLatency)
	}
	if c.ProbeAfter <= c.PaymentPatience { // or a charge under way would be voided behind its back
		bad("probe-after is %s; set more than payment-patience, which is %s", c.ProbeAfter, c.PaymentPatience)
	}
	if c.PaymentDeclineRate+c.PaymentTimeoutRate+c.PaymentLostReplyRate > 1 {
		bad("the payment rates add up to more than 1; lower them")
	}
	for name, n := range map[string]int{"max-requests": c.MaxRequests, "max-paying": c.MaxPaying, "database-conns": c.DatabaseConns, "password-slots": c.PasswordSlots} {
		if n < 1 {
			bad("%s is %d; set 1 or more", name, n)
		}
	}
	for name, n := range map[string]int{"max-unpaid": c.MaxUnpaid, "shopper-rate": c.ShopperRate} {
		if n < 0 || n > 1_000_000 {
			bad("%s is %d; set 0 for no bound, or up to 1000000", name, n)
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		bad("log-level is %q; set debug, info, warn or error", c.LogLevel)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		bad("log-format is %q; set text or json", c.LogFormat)
	}
	if c.has("console") && len(c.Roles) < len(allRoles()) && c.ConsoleAPI == "" {
		bad("the console runs here, but not all services that it shows; set console-api to where the whole API answers, such as http://127.0.0.1:8080")
	}
	c.validateTelemetry(bad)
	if c.SMTPURL != "" && c.WebhookURL != "" {
		bad("smtp-url and webhook-url are both set; notifications go one way, unset one")
	}
	return errors.Join(errs...)
}

// validateRoles checks what every command needs.
func (c *Config) validateRoles(bad func(string, ...any)) {
	if c.Mode != Sync && c.Mode != Async {
		bad("mode is %q; set sync or async", c.Mode)
	}
	if len(c.Roles) == 0 {
		bad("roles is empty; name at least one of %s", strings.Join(allRoles(), ", "))
	}
	for _, r := range c.Roles {
		if !slices.Contains(allRoles(), r) {
			bad("there is no role %q; the roles are %s", r, strings.Join(allRoles(), ", "))
		}
	}
}

// validateTelemetry checks what is written about this process.
func (c *Config) validateTelemetry(bad func(string, ...any)) {
	if c.AdminListen != "" && (c.AdminListen == c.Listen || c.AdminListen == c.InternalListen) && !strings.HasSuffix(c.AdminListen, ":0") {
		bad("admin-listen is %s, as another listener is; set a port of its own, for metrics and profiles are not for the public", c.AdminListen)
	}
	if c.LookEvery < 100*time.Millisecond {
		bad("look-every is %s; set 100ms or more, such as 1s", c.LookEvery)
	}
	if c.AuditEvery != 0 && c.AuditEvery < time.Second {
		bad("audit-every is %s; set 0s for none, or 1s or more, such as 1m", c.AuditEvery)
	}
	if c.InfluxURL == "" {
		return
	}
	if u, err := url.Parse(c.InfluxURL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil {
		bad("INFLUX_URL is not the address of an InfluxDB; set http://host:8086, and what it is to be shown as INFLUX_TOKEN")
	}
	if c.InfluxBucket == "" {
		bad("influx-bucket is empty; name the bucket, or database/retention-policy of InfluxDB 1.8")
	}
	if c.CollectEvery < 100*time.Millisecond {
		bad("collect-every is %s; set 100ms or more, such as 1s", c.CollectEvery)
	}
}

const minSecret = 32

// validateServers checks what only matters outside the embedded default, where unsafe settings are
// refused.
func (c *Config) validateServers(bad func(string, ...any)) {
	for _, role := range c.Roles {
		name, owns := databases()[role]
		if !owns {
			continue
		}
		u := c.databaseURL(role)
		if u == "" {
			bad("no database for the role %s; set DATABASE_URL with {database} in it, or DATABASE_URLS=%s=postgres://…", role, name)
		} else if p, err := url.Parse(u); err != nil || (p.Scheme != "postgres" && p.Scheme != "postgresql") {
			bad("the database URL of %s is not one; set postgres://user:password@host:port/%s", role, name)
		}
	}
	if c.DatabaseURL != "" && !strings.Contains(c.DatabaseURL, "{database}") {
		bad("DATABASE_URL has no {database} in it, but every service has a database of its own; set for example postgres://user:password@host:5432/{database}")
	}
	if (c.has("reservation") || c.has("inventory")) && len(c.RedisURLs) == 0 {
		bad("no gate: set REDIS_URLS to one or more Redis servers, with commas, in the same order everywhere")
	}
	if c.Mode == Async && c.AMQPURL == "" {
		bad("the async wiring needs RabbitMQ: set AMQP_URL to amqp://user:password@host:port/vhost")
	}
	if len(c.TokenSecrets) == 0 {
		bad("no token secret: set TOKEN_SECRETS to the same random text of at least %d bytes for all instances (openssl rand -hex 32)", minSecret)
	}
	for i, s := range c.TokenSecrets {
		if len(s) < minSecret {
			bad("token secret %d has %d bytes; use at least %d (openssl rand -hex 32)", i+1, len(s), minSecret)
		}
	}
	if c.PasswordMemory < 19<<10 {
		bad("password-memory is %d KiB; argon2id needs at least %d outside the embedded default", c.PasswordMemory, 19<<10)
	}
	missing := []string{}
	for _, role := range allRoles() {
		if role != "console" && role != "reservation" && !c.has(role) && c.Peers[role] == "" {
			missing = append(missing, role)
		}
	}
	if len(missing) > 0 && c.InternalListen == "" {
		bad("the roles are split, but the others cannot reach this process; set internal-listen, for example 127.0.0.1:9090")
	}
	if len(missing) > 0 {
		bad("the roles %s run elsewhere, but where is not said; set peers, for example %s=http://127.0.0.1:9090", strings.Join(missing, ", "), missing[0])
	}
	if len(c.Peers) > 0 || c.InternalListen != "" {
		if len(c.InternalToken) < minSecret {
			bad("services call each other, but the internal token has %d bytes; set FLASHSALE_INTERNAL_TOKEN to a random text of at least %d", len(c.InternalToken), minSecret)
		}
	}
	if strings.ContainsFunc(c.InternalToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
		bad("the internal token travels in a header; use visible ASCII characters without spaces (openssl rand -hex 32)")
	}
	for service, u := range c.Peers {
		if p, err := url.Parse(u); err != nil || p.Host == "" || (p.Scheme != "http" && p.Scheme != "https") {
			bad("the peer %s has no usable address; set %s=http://host:port", service, service)
		}
	}
}

// redacted returns the settings for the log: names and values, secrets hidden.
func (c *Config) redacted() []any {
	var out []any
	for _, s := range c.settings() {
		v := s.value.String()
		if s.secret && v != "" {
			v = "(set)"
		}
		if v != "" {
			out = append(out, strings.ReplaceAll(s.name, "-", "_"), v)
		}
	}
	return out
}

// The kinds of values that settings have.
type (
	textValue     string
	modeValue     Mode
	durationValue time.Duration
	intValue      struct{ p *int }
	rateValue     struct{ p *float64 }
	listValue     struct{ p *[]string }
	mapValue      struct{ p *map[string]string }
)

func (v *textValue) String() string     { return string(*v) }
func (v *textValue) Set(s string) error { *v = textValue(s); return nil }
func (v *textValue) Type() string       { return "text" }

func (v *modeValue) String() string     { return string(*v) }
func (v *modeValue) Set(s string) error { *v = modeValue(s); return nil }
func (v *modeValue) Type() string       { return "sync|async" }

func (v *durationValue) String() string { return time.Duration(*v).String() }
func (v *durationValue) Type() string   { return "duration" }
func (v *durationValue) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a duration; write 250ms, 5s or 2m", s)
	}
	*v = durationValue(d)
	return nil
}

func (v *intValue) Type() string   { return "number" }
func (v *intValue) String() string { return strconv.Itoa(*v.p) }
func (v *intValue) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("%q is not a whole number", s)
	}
	*v.p = n
	return nil
}

func (v *rateValue) Type() string   { return "share" }
func (v *rateValue) String() string { return strconv.FormatFloat(*v.p, 'g', -1, 64) }
func (v *rateValue) Set(s string) error {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0 && f <= 1) {
		return fmt.Errorf("%q is not a share; write a number from 0 to 1", s)
	}
	*v.p = f
	return nil
}

func (v *listValue) Type() string   { return "list" }
func (v *listValue) String() string { return strings.Join(*v.p, ",") }
func (v *listValue) Set(s string) error {
	*v.p = nil
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*v.p = append(*v.p, part)
		}
	}
	return nil
}

func (v *mapValue) Type() string { return "map" }
func (v *mapValue) String() string {
	var parts []string
	for k, val := range *v.p {
		parts = append(parts, k+"="+val)
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func (v *mapValue) Set(s string) error {
	m := map[string]string{}
	for n, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		k, val, ok := strings.Cut(part, "=")
		if !ok || k == "" || val == "" {
			return fmt.Errorf("part %d is not name=value", n+1) // it may have a password
		}
		m[k] = val
	}
	*v.p = m
	return nil
}
