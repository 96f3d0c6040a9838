package ab

import (
	"context"
	"flashsale/audit"
	"net/http"
	"strings"
	"time"
)

// remote is a pair of systems that run already. Nothing is reset but the sale.
type remote struct {
	set   Settings
	shops map[string]*shop
}

func newRemote(s Settings) *remote {
	return &remote{set: s, shops: map[string]*shop{
		First: newShop(strings.TrimSuffix(s.Against[0], "/"), s.Operator, s.Password), Second: newShop(strings.TrimSuffix(s.Against[1], "/"), s.Operator, s.Password),
	}}
}

// start resets nothing: the run begins with a sale of its own.
func (r *remote) start(_ context.Context, side string) (shopURL, echoURL string, err error) {
	return r.shops[side].base, "", nil
}

func (r *remote) audit(ctx context.Context, side string) ([]audit.Check, error) {
	s := r.shops[side]
	var login struct {
		Token string `json:"access_token"`
	}
	if _, err := s.call(ctx, http.MethodPost, "/api/v1/auth/login", "", map[string]string{"email": s.operator, "password": s.password}, &login); err != nil {
		return nil, err
	}
	var got struct {
		Checks []audit.Check `json:"checks"`
	}
	for deadline := time.Now().Add(time.Minute); ; { // what is on its way shows as an equation that does not hold yet
		if _, err := s.call(ctx, http.MethodGet, "/api/v1/admin/audit", login.Token, nil, &got); err != nil {
			return nil, err
		}
		if audit.Clean(got.Checks) || time.Now().After(deadline) {
			return got.Checks, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (r *remote) series() influx { return influx{} }

func (r *remote) operator() (email, password string) { return r.set.Operator, r.set.Password }

func (r *remote) versions(context.Context) ([]string, error) { return nil, nil }

func (r *remote) notes() []string {
	return []string{
		"systems that ran already: " + First + " is " + r.set.Against[0] + ", " + Second + " is " + r.set.Against[1],
		"nothing was reset but the sale, and CPU and memory are not known; the machine is the one that k6 ran on",
	}
}

func (r *remote) close() {
	for _, s := range r.shops {
		s.close()
	}
}
