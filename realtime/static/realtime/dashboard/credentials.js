/** With which credential the page connects: its user's, or a pasted token kept for this tab. */

const KEY = "realtime.token";

/** The server does not give this user a token, or does not know him any more. */
export class NotSignedIn extends Error {}

/** Return a token function for the logged-in user: a new short-lived token for each connection. */
export function tokenOfUser(url, csrfToken) {
  return async () => {
    const answer = await fetch(url, {
      method: "POST",
      headers: { "X-CSRFToken": csrfToken },
      credentials: "same-origin",
    });
    if (answer.status === 401) throw new NotSignedIn("You are not logged in any more.");
    if (answer.status === 403) throw new NotSignedIn("Your user may not see any of the streams.");
    if (!answer.ok) throw new Error(`no token: HTTP ${answer.status}`);
    return (await answer.json()).token;
  };
}

/** The token that was pasted into this tab, if any. */
export function pastedToken() {
  return sessionStorage.getItem(KEY);
}

/** Keep a token that came in the address, as `#token=…`, which is not sent to the server. */
export function takeTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  keepToken(token);
  history.replaceState(null, "", location.pathname + location.search);
}

/** Keep a pasted token for as long as the tab is open; `null` forgets it. */
export function keepToken(token) {
  if (token === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, token);
}
