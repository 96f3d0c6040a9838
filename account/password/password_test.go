package password

import (
	"context"
	"errors"
	"flashsale/account"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const small = 64 // KiB

func hasher(t testing.TB, slots int) *Hasher {
	t.Helper()
	h, err := New(small, slots)
	must(t, err)
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		memory, slots int
		ok            bool
	}{{8, 1, true}, {1 << 20, 1, true}, {7, 1, false}, {1<<20 + 1, 1, false}, {-1, 1, false}, {64, 0, false}, {64, -1, false}} {
		if _, err := New(c.memory, c.slots); (err == nil) != c.ok {
			t.Errorf("memory %d, %d slots: %v", c.memory, c.slots, err)
		}
	}
}

func TestHash(t *testing.T) {
	t.Parallel()
	h := hasher(t, 2)
	long := strings.Repeat("ü", 256)
	for _, password := range []string{"correct horse", "", "with\x00zero", long} {
		hash, err := h.Hash(t.Context(), password)
		must(t, err)
		memory, passes, lanes, salt, key, err := decode(hash)
		must(t, err)
		if !strings.HasPrefix(hash, "$argon2id$v=19$m=64,t=2,p=1$") || memory != small || passes != 2 || lanes != 1 || len(salt) != 16 || len(key) != 32 {
			t.Fatalf("hash %s", hash)
		}
		must(t, h.Verify(t.Context(), password, hash))
		for _, wrong := range []string{password + "x", "x" + password, strings.ToUpper(password) + "\x00", long[1:]} {
			wantErr(t, h.Verify(t.Context(), wrong, hash), account.ErrBadCredentials)
		}
		again, err := h.Hash(t.Context(), password)
		must(t, err)
		if again == hash {
			t.Fatal("two hashes of one salt")
		}
	}
}

// TestReference: hashes of argon2's reference implementation, of other parameters than our own.
func TestReference(t *testing.T) {
	t.Parallel()
	h := hasher(t, 1)
	for _, hash := range []string{
		"$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc",
	} {
		must(t, h.Verify(t.Context(), "password", hash))
		wantErr(t, h.Verify(t.Context(), "passwore", hash), account.ErrBadCredentials)
	}
}

// TestNobody: where there is no hash the work is that of a hash made now, and nothing matches.
func TestNobody(t *testing.T) {
	t.Parallel()
	h := hasher(t, 1)
	for _, password := range []string{"", "correct horse", string(make([]byte, 32))} {
		wantErr(t, h.Verify(t.Context(), password, ""), account.ErrBadCredentials)
	}
	fresh, err := h.Hash(t.Context(), "correct horse")
	must(t, err)
	cost := func(hash string) string {
		memory, passes, lanes, salt, key, err := decode(hash)
		must(t, err)
		return fmt.Sprint(memory, passes, lanes, len(salt), len(key))
	}
	if cost(h.dummy) != cost(fresh) {
		t.Errorf("the cost of nobody is %s, of somebody %s", cost(h.dummy), cost(fresh))
	}
	h.dummy = fresh // even who knows a password that gives it is nobody
	wantErr(t, h.Verify(t.Context(), "correct horse", ""), account.ErrBadCredentials)
}

const salt, key = "c29tZXNhbHQ", "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"

func TestDamagedHash(t *testing.T) {
	t.Parallel()
	h := hasher(t, 1)
	must(t, h.Verify(t.Context(), "password", "$argon2id$v=19$m=256,t=2,p=1$"+salt+"$"+key))
	for name, hash := range map[string]string{
		"no hash at all":         "x",
		"a password":             "password",
		"another method":         "$argon2i$v=19$m=256,t=2,p=1$" + salt + "$" + key,
		"bcrypt":                 "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
		"another version":        "$argon2id$v=16$m=256,t=2,p=1$" + salt + "$" + key,
		"no version":             "$argon2id$m=256,t=2,p=1$" + salt + "$" + key,
		"no key":                 "$argon2id$v=19$m=256,t=2,p=1$" + salt,
		"an empty key":           "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$",
		"a short key":            "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$nf65EOgLrQMR",
		"a long key":             "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + strings.Repeat("AAAA", 22),
		"a key that is not text": "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + strings.Repeat("!", 43),
		"a padded key":           "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + key + "=",
		"a short salt":           "$argon2id$v=19$m=256,t=2,p=1$c29t$" + key,
		"a part more":            "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + key + "$",
		"no parameters":          "$argon2id$v=19$$" + salt + "$" + key,
		"no passes":              "$argon2id$v=19$m=256,t=0,p=1$" + salt + "$" + key,
		"passes for ever":        "$argon2id$v=19$m=256,t=4294967295,p=1$" + salt + "$" + key,
		"no lanes":               "$argon2id$v=19$m=256,t=2,p=0$" + salt + "$" + key,
		"too many lanes":         "$argon2id$v=19$m=256,t=2,p=256$" + salt + "$" + key,
		"all the memory":         "$argon2id$v=19$m=1048577,t=2,p=1$" + salt + "$" + key,
		"negative memory":        "$argon2id$v=19$m=-1,t=2,p=1$" + salt + "$" + key,
		"more after it":          "$argon2id$v=19$m=256,t=2,p=1,keyid=x$" + salt + "$" + key,
	} {
		if err := h.Verify(t.Context(), "password", hash); err == nil || errors.Is(err, account.ErrBadCredentials) || errors.Is(err, account.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + key)
	f.Add("$argon2id$v=19$m=1048576,t=16,p=255$" + salt + "$" + strings.Repeat("AAAA", 21))
	f.Fuzz(func(t *testing.T, hash string) {
		memory, passes, lanes, salt, key, err := decode(hash)
		if err == nil && (memory > 1<<20 || passes < 1 || passes > 16 || lanes < 1 || len(salt) < 8 || len(key) < 16 || len(key) > 64) {
			t.Fatalf("%q: m=%d t=%d p=%d, %d and %d bytes", hash, memory, passes, lanes, len(salt), len(key))
		}
	})
}

// TestSlots: with every slot taken, each kind of work waits for one, and goes on when it is free.
func TestSlots(t *testing.T) {
	t.Parallel()
	for name, work := range map[string]func(context.Context, *Hasher) error{
		"hash": func(ctx context.Context, h *Hasher) error { _, err := h.Hash(ctx, "password"); return err },
		"verify": func(ctx context.Context, h *Hasher) error {
			return h.Verify(ctx, "password", "$argon2id$v=19$m=256,t=2,p=1$"+salt+"$"+key)
		},
		"verify, nobody": func(ctx context.Context, h *Hasher) error { return h.Verify(ctx, "password", "") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := hasher(t, 2)
				leave, err := h.enter(t.Context())
				must(t, err)
				_, err = h.enter(t.Context())
				must(t, err)
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				wantErr(t, work(ctx, h), account.ErrBusy)
				if waited := time.Since(start); waited != time.Second {
					t.Fatalf("a second's context is given up after %s", waited)
				}
				wantErr(t, work(t.Context(), h), account.ErrBusy)
				if waited := time.Since(start); waited != time.Second+patient {
					t.Fatalf("without a deadline it waited till %s", waited)
				}
				done := make(chan error, 1)
				go func() { done <- work(t.Context(), h) }()
				synctest.Wait()
				if len(done) != 0 || len(h.waiting) != 1 {
					t.Fatalf("%d finished without a slot, %d wait", len(done), len(h.waiting))
				}
				leave()
				if err := <-done; errors.Is(err, account.ErrBusy) {
					t.Fatal(err)
				}
				if len(h.slots) != 1 || len(h.waiting) != 0 {
					t.Fatalf("%d slots taken, %d waiting afterwards", len(h.slots), len(h.waiting))
				}
				gone, end := context.WithCancel(t.Context())
				end()
				for range 20 {
					wantErr(t, work(gone, h), account.ErrBusy) // though there is a slot, every time
				}
			})
		})
	}
}

// TestStorm: beyond the queue nobody waits, and those in it are served one after the other.
func TestStorm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := hasher(t, 1)
		leave, err := h.enter(t.Context())
		must(t, err)
		served := make(chan error, queue+1)
		for range queue + 1 {
			go func() {
				leave, err := h.enter(t.Context())
				if err == nil {
					if len(h.slots) != 1 {
						err = errors.New("served without a slot")
					}
					defer leave()
				}
				served <- err
			}()
		}
		synctest.Wait()
		start := time.Now()
		_, err = h.enter(t.Context())
		wantErr(t, err, account.ErrBusy)
		if time.Since(start) != 0 {
			t.Fatal("it waited to be turned away")
		}
		leave()
		for range queue + 1 {
			must(t, <-served)
		}
	})
}
