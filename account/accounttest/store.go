// Package accounttest holds the suite that every account store passes.
package accounttest

import (
	"crypto/sha256"
	"errors"
	"flashsale/account"
	"flashsale/id"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"
)

// ExerciseStore runs the suite; open returns an empty store.
func ExerciseStore(t *testing.T, open func(t *testing.T) account.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *book){
		"an account is kept":                     storeKeeps,
		"an address is one account's":            storeEmails,
		"one of a crowd gets the address":        storeEmailCrowd,
		"what is not there":                      storeNothing,
		"a token is used once":                   storeRotates,
		"reuse revokes the family":               storeReuse,
		"a token ends":                           storeEnds,
		"one of a crowd rotates":                 storeRotateCrowd,
		"a family does not outrun its own reuse": storeRace,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &book{open(t), t})
		})
	}
}

var now = time.Date(2026, 11, 21, 10, 0, 0, 123456000, time.UTC)

// book is a store, and words for what the suite does to it.
type book struct {
	account.Store
	t *testing.T
}

func (b *book) user(name string) account.User {
	b.t.Helper()
	u := account.User{ID: id.Derive("user", name), Email: name + "@example.com", PasswordHash: "$argon2id$of-" + name, Role: account.Shopper, CreatedAt: now}
	must(b.t, b.Create(b.t.Context(), u))
	return u
}

func hash(name string) [32]byte { return sha256.Sum256([]byte(name)) }

// login grants the first token of a family named after it.
func (b *book) login(u account.User, name string) {
	b.t.Helper()
	must(b.t, b.Grant(b.t.Context(), account.Refresh{Hash: hash(name), Family: id.Derive(name), User: u.ID, ExpiresAt: now.Add(time.Hour)}))
}

func (b *book) rotate(used, next string, at time.Time) (account.Refresh, error) {
	return b.Rotate(b.t.Context(), hash(used), account.Refresh{Hash: hash(next), ExpiresAt: at.Add(time.Hour)}, at)
}

func (b *book) wantRotate(used, next string, want error) {
	b.t.Helper()
	_, err := b.rotate(used, next, now)
	wantErr(b.t, err, want)
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

func storeKeeps(t *testing.T, b *book) {
	b.user("bob")
	u := b.user("ann")
	op := account.User{ID: id.Derive("op"), Email: "o'p+ü@example.com", PasswordHash: "h", Role: account.Operator, CreatedAt: now.Add(-time.Microsecond)}
	must(t, b.Create(t.Context(), op))
	for _, want := range []account.User{u, op} {
		if got, err := b.ByEmail(t.Context(), want.Email); err != nil || got != want {
			t.Errorf("by address: %+v, %v\nwant %+v", got, err, want)
		}
		if got, err := b.ByID(t.Context(), want.ID); err != nil || got != want {
			t.Errorf("by id: %+v, %v\nwant %+v", got, err, want)
		}
	}
	for _, c := range []struct {
		ask  []id.ID
		want map[id.ID]string
	}{
		{[]id.ID{u.ID, op.ID, id.Derive("nobody"), u.ID}, map[id.ID]string{u.ID: u.Email, op.ID: op.Email}},
		{nil, map[id.ID]string{}},
	} {
		if got, err := b.Emails(t.Context(), c.ask); err != nil || !maps.Equal(got, c.want) {
			t.Errorf("addresses of %v: %v, %v", c.ask, got, err)
		}
	}
}

func storeEmails(t *testing.T, b *book) {
	u := b.user("ann")
	again := u
	again.ID, again.PasswordHash, again.Role = id.Derive("other"), "other", account.Operator
	wantErr(t, b.Create(t.Context(), again), account.ErrEmailTaken)
	if got, err := b.ByEmail(t.Context(), u.Email); err != nil || got != u {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err := b.ByID(t.Context(), again.ID)
	wantErr(t, err, account.ErrNotFound)
}

func storeEmailCrowd(t *testing.T, b *book) {
	errs := crowd(8, func(n int) error {
		return b.Create(t.Context(), account.User{ID: id.Derive(fmt.Sprint(n)), Email: "ann@example.com", PasswordHash: "h", Role: account.Shopper, CreatedAt: now})
	})
	wantOne(t, errs, account.ErrEmailTaken)
}

func storeNothing(t *testing.T, b *book) {
	b.user("ann")
	for _, email := range []string{"", "ann", "Ann@example.com", "ann@example.com ", "%@example.com", "bob@example.com"} {
		_, err := b.ByEmail(t.Context(), email)
		wantErr(t, err, account.ErrNotFound)
	}
	for _, user := range []id.ID{{}, id.Derive("nobody")} {
		got, err := b.ByID(t.Context(), user)
		wantErr(t, err, account.ErrNotFound)
		if got != (account.User{}) {
			t.Fatalf("%+v", got)
		}
	}
	b.wantRotate("unknown", "next", account.ErrTokenInvalid)
	b.wantRotate("next", "next 2", account.ErrTokenInvalid) // a refused rotation stores nothing
	if err := b.Grant(t.Context(), account.Refresh{Hash: hash("x"), Family: id.Derive("x"), User: id.Derive("nobody"), ExpiresAt: now.Add(time.Hour)}); err == nil {
		t.Fatal("a token of nobody was granted")
	}
}

func storeRotates(t *testing.T, b *book) {
	u := b.user("ann")
	b.login(u, "0")
	for n := range 5 {
		at := now.Add(time.Duration(n) * 50 * time.Minute) // each token has its own end
		got, err := b.rotate(fmt.Sprint(n), fmt.Sprint(n+1), at)
		must(t, err)
		if want := (account.Refresh{Hash: hash(fmt.Sprint(n + 1)), Family: id.Derive("0"), User: u.ID, ExpiresAt: at.Add(time.Hour)}); got != want {
			t.Fatalf("%+v\nwant %+v", got, want)
		}
	}
}

func storeReuse(t *testing.T, b *book) {
	u, bob := b.user("ann"), b.user("bob")
	b.login(u, "laptop")
	b.login(u, "phone")
	b.login(bob, "bob's")
	b.wantRotate("laptop", "laptop 2", nil)
	b.wantRotate("laptop 2", "laptop 3", nil)
	b.wantRotate("laptop", "thief's", account.ErrRefreshReused)
	b.wantRotate("laptop 3", "laptop 4", account.ErrTokenInvalid) // the newest, never used
	for _, gone := range []string{"thief's", "laptop 4"} {
		b.wantRotate(gone, "x", account.ErrTokenInvalid)
	}
	b.wantRotate("laptop 2", "x", account.ErrRefreshReused) // and again
	b.wantRotate("phone", "phone 2", nil)                   // another login of hers goes on
	b.wantRotate("bob's", "bob's 2", nil)
}

func storeEnds(t *testing.T, b *book) {
	b.login(b.user("ann"), "a")
	_, err := b.rotate("a", "late", now.Add(time.Hour)) // to the microsecond
	wantErr(t, err, account.ErrTokenInvalid)
	_, err = b.rotate("late", "x", now)
	wantErr(t, err, account.ErrTokenInvalid)
	_, err = b.rotate("a", "b", now.Add(time.Hour-time.Microsecond)) // being late is no use
	must(t, err)
	_, err = b.rotate("a", "x", now.Add(2*time.Hour)) // reuse is noticed after the end too
	wantErr(t, err, account.ErrRefreshReused)
	b.wantRotate("b", "x", account.ErrTokenInvalid)
}

func storeRotateCrowd(t *testing.T, b *book) {
	b.login(b.user("ann"), "a")
	errs := crowd(8, func(n int) error {
		_, err := b.rotate("a", fmt.Sprint(n), now)
		return err
	})
	wantOne(t, errs, account.ErrRefreshReused)
	for n := range errs {
		b.wantRotate(fmt.Sprint(n), "x", account.ErrTokenInvalid)
	}
}

// storeRace: a thief uses an old token while the shopper rotates the newest; whoever is first,
// nothing of the family is left.
func storeRace(t *testing.T, b *book) {
	u := b.user("ann")
	for round := range 40 {
		name := func(n int) string { return fmt.Sprint(round, " ", n) }
		b.login(u, name(0))
		b.wantRotate(name(0), name(1), nil)
		errs := crowd(2, func(n int) error {
			_, err := b.rotate(name(n), name(2+n), now)
			return err
		})
		wantErr(t, errs[0], account.ErrRefreshReused)
		if errs[1] != nil {
			wantErr(t, errs[1], account.ErrTokenInvalid)
		}
		b.wantRotate(name(3), "x", account.ErrTokenInvalid)
	}
}

// crowd runs f n times at the same moment.
func crowd(n int, f func(n int) error) []error {
	errs, start := make([]error, n), make(chan struct{})
	var wg sync.WaitGroup
	for k := range n {
		wg.Go(func() {
			<-start
			errs[k] = f(k)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// wantOne: one of a crowd succeeds, and the others fail with want.
func wantOne(t *testing.T, errs []error, want error) {
	t.Helper()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wantErr(t, err, want)
		}
	}
	if won != 1 {
		t.Fatalf("%d of %d succeeded: %v", won, len(errs), errs)
	}
}
