package console

import (
	"net/http"
	"net/url"
)

type credentialsView struct{ Email, Next string }

func (v *visit) credentialsPage(status int, page, email, next string, n *notice) error {
	title := map[string]string{"login": "Log in", "register": "Create an account"}[page]
	return v.render(status, page, view{Title: title, Section: page, Notice: n, D: credentialsView{email, localPath(next)}})
}

func (c *Console) showLogin(v *visit) error {
	in := v.r.URL.Query()
	return v.credentialsPage(http.StatusOK, "login", "", in.Get("next"), nil)
}

func (c *Console) showRegister(v *visit) error {
	return v.credentialsPage(http.StatusOK, "register", "", v.r.URL.Query().Get("next"), nil)
}

// credentials reads the form and sends it to one of the auth routes.
func (v *visit) credentials(route, page string) (answer, bool, error) {
	email, next := v.r.PostForm.Get("email"), v.r.PostForm.Get("next")
	a, err := v.c.do(v.r.Context(), v.r, call{
		method: http.MethodPost, path: "/api/v1/auth/" + route, body: map[string]string{"email": email, "password": v.r.PostForm.Get("password")},
	})
	if refusal(err) == nil {
		return a, false, err
	}
	n := v.explain(err)
	n.Actions = nil
	return a, true, v.credentialsPage(n.Status, page, email, next, &n)
}

func (c *Console) login(v *visit) error {
	a, shown, err := v.credentials("login", "login")
	if shown || err != nil {
		return err
	}
	t, err := read[tokens](a, nil)
	if err != nil {
		return err
	}
	v.session.begin(t)
	next := localPath(v.r.PostForm.Get("next"))
	if next == "/" && v.session.operator() {
		next = "/operator"
	}
	return v.goTo(next)
}

func (c *Console) register(v *visit) error {
	_, shown, err := v.credentials("register", "register")
	if shown || err != nil {
		return err
	}
	return v.goTo("/login?said=welcome&next=" + url.QueryEscape(localPath(v.r.PostForm.Get("next"))))
}

func (c *Console) logout(v *visit) error {
	v.session.end()
	return v.goTo("/?said=bye")
}
