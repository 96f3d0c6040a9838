// Package redisstock is a gate on one or more Redis servers, a server a shard. Each operation is one
// Lua script, atomic and safe to run twice; the one that opens a bucket is sent once all the same.
//
// A server that restarts may come back with a snapshot that is minutes old and has the right epoch.
// Therefore the text of every script carries the server's run id: a script made for one run is not
// in the script cache of the next, which is never persisted, so a command that meets a restarted
// server is refused by Redis itself (NOSCRIPT) and has certainly not run. The scripts made for the
// new run find the old run id in the bucket and answer "closed".
package redisstock

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"flashsale/groupcommit"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed scripts/*.lua
var scripts embed.FS

// Options bound a gate. The zero value of a field means its default.
type Options struct {
	Timeout time.Duration // of one round trip; 500 ms
	Batch   int           // takes of one pipeline; 128
	Queue   int           // takes that may wait per shard, beyond which ErrUnavailable; 10,000
	TTL     time.Duration // of a bucket nobody installs again; 7 days
}

func (o Options) filled() Options {
	if o.Timeout == 0 {
		o.Timeout = 500 * time.Millisecond
	}
	if o.Batch == 0 {
		o.Batch = 128
	}
	if o.Queue == 0 {
		o.Queue = 10_000
	}
	if o.TTL == 0 {
		o.TTL = 7 * 24 * time.Hour
	}
	return o
}

// Gate implements inventory.Gate and inventory.Keeper.
type Gate struct {
	shards []*shard
	opts   Options
	sender string // names this process among those that take
}

// shard is one server.
type shard struct {
	url    string // redacted
	client *redis.Client
	takes  *groupcommit.Group[inventory.Take, answer]
	set    atomic.Pointer[scriptSet]
	mu     sync.Mutex // one reload at a time

	sendings atomic.Int64 // pipelines, those sent again counted again
}

// scriptSet are the names, in its cache, of the scripts made for one run of a server.
type scriptSet map[string]string

type answer struct {
	taken inventory.Taken
	err   error
}

// ErrUnsuitable is returned by Open for a server that must not count stock.
var ErrUnsuitable = errors.New("redisstock: unsuitable server")

// Open connects to the servers, in the order of the shards, and checks that they are suitable.
func Open(ctx context.Context, urls []string, opts Options) (*Gate, error) {
	g := &Gate{opts: opts.filled(), sender: id.New(time.Now()).String()}
	for _, u := range urls {
		o, err := redis.ParseURL(u)
		if err != nil {
			g.Close()
			return nil, errors.New("redisstock: a URL is not valid (want redis://host:port/0)") // its error would show the password
		}
		// One retrying layer: this package's own, which knows what may have run.
		o.MaxRetries = -1
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout = g.opts.Timeout, g.opts.Timeout, g.opts.Timeout
		o.PoolSize, o.ContextTimeoutEnabled = 8, true
		o.DialerRetries = 1
		s := &shard{url: redacted(u), client: redis.NewClient(o)}
		s.takes = groupcommit.New(g.opts.Batch, g.opts.Queue, 1, func(ctx context.Context, group []inventory.Take) ([]answer, error) {
			return g.takeGroup(ctx, s, group), nil
		})
		g.shards = append(g.shards, s)
		if err := s.suitable(ctx); err != nil {
			g.Close()
			return nil, err
		}
	}
	if len(g.shards) == 0 {
		return nil, errors.New("redisstock: no server named; set REDIS_URLS")
	}
	return g, nil
}

func redacted(u string) string {
	p, err := url.Parse(u)
	if err != nil {
		return "redis"
	}
	return p.Redacted()
}

// Close finishes the takes under way and closes the connections.
func (g *Gate) Close() {
	for _, s := range g.shards {
		s.takes.Close()
		_ = s.client.Close()
	}
}

// Shards implements inventory.Keeper.
func (g *Gate) Shards() int { return len(g.shards) }

// suitable refuses a server that would forget or double units behind our back.
func (s *shard) suitable(ctx context.Context) error {
	info, err := ask(ctx, s.client)
	if err != nil {
		return fmt.Errorf("redisstock: no answer from %s; is the server running? %w", s.url, err)
	}
	major, _ := strconv.Atoi(strings.SplitN(info["redis_version"], ".", 2)[0])
	switch {
	case major < 7:
		return fmt.Errorf("%w: %s is Redis %s; use 7.0 or newer", ErrUnsuitable, s.url, info["redis_version"])
	case info["role"] != "master":
		return fmt.Errorf("%w: %s is a replica; a promoted replica admits too many, so name the master of a server without replicas", ErrUnsuitable, s.url)
	case info["maxmemory_policy"] != "noeviction":
		return fmt.Errorf("%w: %s evicts keys (%s), counters among them; run CONFIG SET maxmemory-policy noeviction", ErrUnsuitable, s.url, info["maxmemory_policy"])
	}
	return nil
}

// ask returns what a server says of itself.
func ask(ctx context.Context, server redis.Cmdable) (map[string]string, error) {
	text, err := server.Info(ctx).Result()
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for line := range strings.SplitSeq(text, "\r\n") {
		if k, v, ok := strings.Cut(line, ":"); ok {
			m[k] = v
		}
	}
	return m, nil
}

// load makes the scripts for the server's present run and puts them in its cache: over one connection, which ends with the
// run. Scripts that name a run must not come into the cache of the next.
func (s *shard) load(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn := s.client.Conn()
	defer func() { _ = conn.Close() }()
	info, err := ask(ctx, conn)
	if err != nil {
		return err
	}
	run, set := info["run_id"], scriptSet{}
	if len(run) != 40 {
		return fmt.Errorf("redisstock: %s has no run id", s.url)
	}
	files, err := scripts.ReadDir("scripts")
	if err != nil {
		return err
	}
	pipe := conn.Pipeline()
	for _, f := range files {
		b, err := scripts.ReadFile("scripts/" + f.Name())
		if err != nil {
			return err
		}
		text := "local RUN = '" + run + "'\n" + string(b)
		set[strings.TrimSuffix(f.Name(), ".lua")] = redis.NewScript(text).Hash()
		pipe.ScriptLoad(ctx, text)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	s.set.Store(&set)
	return nil
}

// call is one script with its keys and arguments.
type call struct {
	script string
	keys   []string
	args   []any
}

// once is the script that is sent once: it brings what the ledger said before, and if the server has forgotten the first
// sending, units have been sold since.
const once = "install"

// run sends calls in one pipeline and returns their commands. A call that met a server without the
// script is sent again, with scripts made for the server's present run; after a broken connection all
// are sent again but once, for every other script is safe to run twice, whatever was lost in between. The error, if any, is
// ErrUnavailable when nothing can have run, and ErrUncertain otherwise.
func (s *shard) run(ctx context.Context, timeout time.Duration, calls []call) ([]*redis.Cmd, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*timeout)
	defer cancel()
	sent := false // some of it may have run
	for attempt := 0; ; attempt++ {
		cmds, ran, err := s.send(ctx, calls, sent)
		sent = sent || ran
		switch {
		case err == nil:
			return cmds, nil
		case errors.Is(err, errNoScript):
			if lerr := s.load(ctx); lerr != nil {
				return nil, lost(sent, lerr)
			}
		case neverSent(err), calls[0].script == once:
			return nil, lost(sent, err)
		}
		if attempt == 2 || ctx.Err() != nil {
			return nil, lost(sent, err)
		}
	}
}

var (
	errNoScript     = errors.New("redisstock: the server has no such script")
	errNotConnected = errors.New("redisstock: the server does not let us in; check the user and the password in REDIS_URLS")
)

// send sends calls one time; again says that they may have run before. Without an error each command has an answer, which may
// be that the server has no memory for it. ran says beside an error that some may have run now.
func (s *shard) send(ctx context.Context, calls []call, again bool) (cmds []*redis.Cmd, ran bool, _ error) {
	set := s.set.Load() // others load it, too
	if set == nil {
		return nil, false, errNoScript
	}
	pipe := s.client.Pipeline()
	cmds = make([]*redis.Cmd, len(calls))
	number := s.sendings.Add(1)
	for i, c := range calls {
		if c.script == "take" {
			c.args[argNumber], c.args[argAgain] = number, again
		}
		cmds[i] = pipe.EvalSha(ctx, (*set)[c.script], c.keys, c.args...)
	}
	_, err := pipe.Exec(ctx)
	var answered, missing bool
	var refused, broken error
	for _, c := range cmds { // each command has its own error
		switch err := c.Err(); {
		case err == nil:
			answered = answered || c.Val() != nil // those that did run are answered the same again
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			missing = true
		case neverSent(err):
			refused = cmp.Or(refused, err)
		default:
			broken = cmp.Or(broken, err)
		}
	}
	switch {
	case broken != nil:
		return nil, true, broken
	case missing:
		return nil, answered, errNoScript
	case refused == nil && err != nil && !answered: // none has an error, so none was sent
		return nil, false, fmt.Errorf("%w: %w", errNotConnected, err)
	case refused != nil && (!answered || again): // sent before, it may have run then
		return nil, answered, refused
	}
	return cmds, true, nil
}

// neverSent reports whether the error came before a byte was written, or says that the server has done nothing.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrClosed) || errors.Is(err, errNotConnected) ||
		redis.HasErrorPrefix(err, "LOADING") || redis.HasErrorPrefix(err, "BUSY") || redis.HasErrorPrefix(err, "OOM") || redis.HasErrorPrefix(err, "NOAUTH")
}

func lost(sent bool, err error) error {
	if sent {
		return fmt.Errorf("%w: %w", inventory.ErrUncertain, err)
	}
	return fmt.Errorf("%w: %w", inventory.ErrUnavailable, err)
}

// keys are the names of a bucket's keys: all under one hash tag, so that they are on one node of a
// cluster too.
type keys struct{ meta, pending, due, users, sent string }

func keysOf(b inventory.BucketID) keys {
	p := "fs:{" + b.Item.Sale.String() + "/" + url.QueryEscape(b.Item.SKU) + "/" + strconv.Itoa(b.Shard) + "}:"
	return keys{meta: p + "m", pending: p + "p", due: p + "d", users: p + "u:", sent: p + "s"}
}

func (k keys) usersOf(epoch int64) string { return k.users + strconv.FormatInt(epoch, 10) }

func (g *Gate) shard(b inventory.BucketID) (*shard, error) {
	if b.Shard < 0 || b.Shard >= len(g.shards) {
		return nil, fmt.Errorf("%w: there is no shard %d", inventory.ErrUnavailable, b.Shard)
	}
	return g.shards[b.Shard], nil
}

// Take implements inventory.Gate. Concurrent takes share round trips.
func (g *Gate) Take(ctx context.Context, t inventory.Take) (inventory.Taken, error) {
	s, err := g.shard(t.Bucket)
	if err != nil {
		return inventory.Taken{}, err
	}
	a, err := s.takes.Do(ctx, t)
	switch {
	case errors.Is(err, groupcommit.ErrFull), errors.Is(err, groupcommit.ErrStopped):
		return inventory.Taken{}, fmt.Errorf("%w: %w", inventory.ErrUnavailable, err)
	case err != nil: // the caller gave up: the take may be on its way
		return inventory.Taken{}, fmt.Errorf("%w: %w", inventory.ErrUncertain, err)
	}
	return a.taken, a.err
}

// place is a bucket as the caller knows it.
type place struct {
	bucket inventory.BucketID
	epoch  int64
}

// The places of what send fills in among the arguments of take.
const (
	argNumber = 3
	argAgain  = 4
)

// maxTakes bounds the takes of one script: Lua passes them on as arguments.
const maxTakes = 500

// takeGroup runs a group's takes, one script a bucket and epoch.
func (g *Gate) takeGroup(ctx context.Context, s *shard, group []inventory.Take) []answer {
	var calls []call
	var asked [][]int // by call, the places of its takes in the group
	open := map[place]int{}
	for i, t := range group {
		p := place{t.Bucket, t.Epoch}
		c, ok := open[p]
		if !ok || len(asked[c]) == maxTakes {
			k := keysOf(t.Bucket)
			c = len(calls)
			open[p] = c
			calls = append(calls, call{"take", []string{k.meta, k.pending, k.due, k.usersOf(t.Epoch), k.sent}, []any{t.Epoch, int64(g.opts.TTL.Seconds()), g.sender, 0, false}})
			asked = append(asked, nil)
		}
		calls[c].args = append(calls[c].args, t.ID.String(), t.User.String(), t.Qty, t.Limit, t.Deadline.UnixMilli(), t.Note)
		asked[c] = append(asked[c], i)
	}
	out := make([]answer, len(group))
	cmds, err := s.run(ctx, g.opts.Timeout, calls)
	for c, places := range asked {
		var n []int64
		cause := err
		if cause == nil {
			switch n, cause = cmds[c].Int64Slice(); {
			case neverSent(cause): // this one of several scripts
				cause = lost(false, cause)
			case cause != nil || len(n) != 3*len(places):
				cause = fmt.Errorf("%w: take answered %v", inventory.ErrUncertain, cmds[c].Val())
			}
		}
		for j, i := range places {
			if cause != nil {
				out[i].err = cause
				continue
			}
			out[i] = takeAnswer(n[3*j], n[3*j+1], n[3*j+2])
		}
	}
	return out
}

func takeAnswer(code, had, available int64) answer {
	a := answer{taken: inventory.Taken{UserHas: int(had), Available: available}}
	switch code {
	case 0:
	case 1:
		a.err = inventory.ErrShort
	case 2:
		a.err = reservation.ErrLimitReached
	case 3:
		a = answer{err: inventory.ErrFenced}
	case 4:
		a = answer{err: inventory.ErrClosed}
	default:
		a = answer{err: fmt.Errorf("%w: take answered %d", inventory.ErrUncertain, code)}
	}
	return a
}

// conclude runs settle or abort for takes, a script a bucket and epoch, and returns the number of takes that it was
// done for. more are arguments of the script before the takes.
func (g *Gate) conclude(ctx context.Context, script string, takes []inventory.TakeRef, more ...any) (int, error) {
	args := map[place][]any{}
	for _, t := range takes {
		p := place{t.Bucket, t.Epoch}
		args[p] = append(args[p], t.ID.String())
	}
	calls := map[*shard][]call{}
	for p, a := range args {
		s, err := g.shard(p.bucket)
		if err != nil {
			return 0, err
		}
		k := keysOf(p.bucket)
		for part := range slices.Chunk(a, 500) {
			calls[s] = append(calls[s], call{script, []string{k.meta, k.pending, k.due, k.usersOf(p.epoch)}, slices.Concat([]any{p.epoch}, more, part)})
		}
	}
	var errs []error
	concluded := 0
	for s, cs := range calls {
		cmds, err := s.run(ctx, g.opts.Timeout, cs)
		errs = append(errs, err)
		for _, c := range cmds {
			n, err := c.Int()
			errs = append(errs, err)
			concluded += n
		}
	}
	return concluded, errors.Join(errs...)
}

// Settle implements inventory.Gate.
func (g *Gate) Settle(ctx context.Context, takes []inventory.TakeRef) error {
	_, err := g.conclude(ctx, "settle", takes)
	return err
}

// Abort implements inventory.Gate.
func (g *Gate) Abort(ctx context.Context, takes []inventory.TakeRef) error {
	_, err := g.conclude(ctx, "abort", takes, 1)
	return err
}

// Withdraw implements inventory.Gate. A withdrawal whose answer was lost and that is sent again finds nothing, and says so.
func (g *Gate) Withdraw(ctx context.Context, takes []inventory.TakeRef) (bool, error) {
	n, err := g.conclude(ctx, "abort", takes, 0)
	return n == len(takes), err
}

const usersChunk = 1000

// Install implements inventory.Keeper. The shoppers' counts are loaded beside the bucket first, in
// bounded pieces, and become the bucket's in the same script that raises the epoch, if they are all still there.
func (g *Gate) Install(ctx context.Context, b inventory.BucketID, l inventory.Level, users map[id.ID]int) error {
	s, err := g.shard(b)
	if err != nil {
		return err
	}
	k := keysOf(b)
	loaded := k.users + "load:" + id.New(time.Now()).String()
	fields := make([]any, 0, 2*usersChunk)
	flush := func() error {
		if len(fields) == 0 {
			return nil
		}
		pipe := s.client.Pipeline()
		pipe.HSet(ctx, loaded, fields...)
		pipe.Expire(ctx, loaded, time.Hour) // should this call die half-way
		fields = fields[:0]
		if _, err := pipe.Exec(ctx); err != nil {
			return fmt.Errorf("%w: %w", inventory.ErrUnavailable, err) // the bucket is as it was
		}
		return nil
	}
	for u, n := range users {
		if fields = append(fields, u.String(), n); len(fields) >= 2*usersChunk {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	cmds, err := s.run(ctx, g.opts.Timeout, []call{{once, []string{k.meta, k.pending, k.due, k.usersOf(l.Epoch), loaded}, []any{
		l.Epoch, l.Available, l.Seq, k.users, int64(g.opts.TTL.Seconds()), len(users),
	}}})
	if err != nil {
		return err
	}
	switch n, err := cmds[0].Int(); {
	case err != nil:
		return fmt.Errorf("%w: %w", inventory.ErrUncertain, err)
	case n < 0:
		return fmt.Errorf("%w: the server has lost the shoppers' counts meanwhile", inventory.ErrUnavailable)
	}
	return nil
}

// Credit implements inventory.Keeper.
func (g *Gate) Credit(ctx context.Context, b inventory.BucketID, epoch int64, credits []inventory.Credit) (int64, error) {
	s, err := g.shard(b)
	if err != nil {
		return 0, err
	}
	k := keysOf(b)
	args := []any{epoch}
	for _, c := range credits {
		user := ""
		if !c.User.IsZero() {
			user = c.User.String()
		}
		args = append(args, c.Seq, c.Qty, user)
	}
	cmds, err := s.run(ctx, g.opts.Timeout, []call{{"credit", []string{k.meta, k.usersOf(epoch)}, args}})
	if err != nil {
		return 0, err
	}
	n, err := cmds[0].Int64()
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: %w", inventory.ErrUncertain, err)
	case n == -3:
		return 0, inventory.ErrFenced
	case n == -4:
		return 0, inventory.ErrClosed
	}
	return n, nil
}

// Levels implements inventory.Keeper: one pipeline a shard.
func (g *Gate) Levels(ctx context.Context, buckets []inventory.BucketID) ([]inventory.Level, error) {
	out := make([]inventory.Level, len(buckets))
	calls, places := map[*shard][]call{}, map[*shard][]int{}
	for i, b := range buckets {
		s, err := g.shard(b)
		if err != nil {
			out[i].Away = true
			continue
		}
		calls[s] = append(calls[s], call{"level", []string{keysOf(b).meta}, nil})
		places[s] = append(places[s], i)
	}
	for s, cs := range calls {
		cmds, err := s.run(ctx, g.opts.Timeout, cs)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			for _, i := range places[s] {
				out[i].Away = true
			}
			continue
		}
		for j, c := range cmds {
			n, err := c.Int64Slice()
			if err != nil || len(n) != 4 {
				return nil, fmt.Errorf("redisstock: level answered %v: %w", c.Val(), err)
			}
			out[places[s][j]] = inventory.Level{Epoch: n[0], Available: n[1], Seq: n[2], Pending: n[3]}
		}
	}
	return out, nil
}

// Overdue implements inventory.Keeper.
func (g *Gate) Overdue(ctx context.Context, b inventory.BucketID, now time.Time, limit int) ([]inventory.Pending, error) {
	s, err := g.shard(b)
	if err != nil {
		return nil, err
	}
	k := keysOf(b)
	cmds, err := s.run(ctx, g.opts.Timeout, []call{{"overdue", []string{k.meta, k.pending, k.due}, []any{now.UnixMilli(), limit}}})
	if err != nil {
		return nil, err
	}
	parts, err := cmds[0].Slice()
	if err != nil || len(parts) == 0 {
		return nil, fmt.Errorf("redisstock: overdue answered %v: %w", cmds[0].Val(), err)
	}
	epoch, _ := parts[0].(int64)
	var out []inventory.Pending
	for i := 1; i+1 < len(parts); i += 2 {
		take, _ := parts[i].(string)
		record, _ := parts[i+1].(string)
		p, err := parsePending(take, record)
		if err != nil {
			return nil, err
		}
		p.Bucket, p.Epoch = b, epoch
		out = append(out, p)
	}
	return out, nil
}

func parsePending(take, record string) (inventory.Pending, error) {
	var p inventory.Pending
	var err error
	fields := strings.SplitN(record, " ", 4) // a record of a take with a note has it at the end
	if len(fields) < 3 {
		return p, fmt.Errorf("redisstock: pending record %q of take %q", record, take)
	}
	if p.ID, err = id.Parse(take); err != nil {
		return p, fmt.Errorf("redisstock: take %q: %w", take, err)
	}
	if p.User, err = id.Parse(fields[1]); err != nil {
		return p, fmt.Errorf("redisstock: shopper %q: %w", fields[1], err)
	}
	if p.Qty, err = strconv.Atoi(fields[0]); err != nil {
		return p, fmt.Errorf("redisstock: quantity %q: %w", fields[0], err)
	}
	ms, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return p, fmt.Errorf("redisstock: deadline %q: %w", fields[2], err)
	}
	p.Deadline = time.UnixMilli(ms).UTC()
	if len(fields) == 4 {
		p.Note = fields[3]
	}
	return p, nil
}
