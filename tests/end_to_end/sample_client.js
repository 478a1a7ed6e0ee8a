// A client of the shape of the documented one, for Node's own WebSocket.
// Usage: node sample_client.js URL TOKEN; prints one line for each thing it sees.

'use strict';

class StreamingClient {
    constructor(url, token) {
        this.url = url;
        this.token = token;
        this.connect();
    }

    connect() {
        this.ws = new WebSocket(this.url);
        this.ws.onopen = () => {
            this.authenticate();
            // Without waiting for the answer to auth.
            this.subscribe('events', { event_type: 'click', 'payload.user_id': ['u1', 'u2'] });
            this.subscribe('metrics');
        };
        this.ws.onmessage = (event) => this.handleMessage(JSON.parse(event.data));
        this.ws.onclose = (event) => console.log(`closed ${event.code} ${event.reason}`);
    }

    authenticate() {
        this.send({ type: 'auth', data: { token: this.token } });
    }

    subscribe(type, filters = {}) {
        this.send({ type: 'subscribe', data: { type, filters } });
    }

    unsubscribe(subscriptionId) {
        this.send({ type: 'unsubscribe', data: { subscription_id: subscriptionId } });
    }

    send(message) {
        if (this.ws.readyState === WebSocket.OPEN) {
            this.ws.send(JSON.stringify(message));
        }
    }

    handleMessage(message) {
        switch (message.type) {
            case 'data':
                console.log(`data ${JSON.stringify(message.data)}`);
                if (message.data.metrics) {
                    this.unsubscribe(message.subscription_id);
                }
                break;
            case 'subscribed':
                console.log(`subscribed ${message.data.type}`);
                break;
            case 'error':
                console.log(`error ${message.data.error}`);
                break;
            default:
                console.log(message.type);
        }
    }
}

new StreamingClient(process.argv[2], process.argv[3]);
