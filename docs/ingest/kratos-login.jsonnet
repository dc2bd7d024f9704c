// The body of Ory Kratos' web hook for POST /v1/adapters/kratos:
//
//   selfservice.flows.login.after.hooks:
//     - hook: web_hook
//       config:
//         url: http://portcullis:8490/v1/adapters/kratos
//         method: POST
//         body: file:///etc/kratos/kratos-login.jsonnet
//         response: { ignore: true }
//         auth: { type: api_key, config: { in: header, name: X-Api-Key, value: the-token } }
//
// Cookies and other headers stay where they are. Kratos must stand behind a proxy that sets one of the address headers.
local header(ctx, name) = if std.objectHas(ctx.request_headers, name) then ctx.request_headers[name] else null;
local field(object, name) = if object != null && std.objectHas(object, name) then object[name] else null;
function(ctx) {
  kratos_hook: '1',
  outcome: 'success',
  flow: {
    id: ctx.flow.id,
    active: field(ctx.flow, 'active'),
  },
  identity: if std.objectHas(ctx, 'identity') then {
    id: ctx.identity.id,
    created_at: field(ctx.identity, 'created_at'),
    traits: {
      email: field(ctx.identity.traits, 'email'),
      username: field(ctx.identity.traits, 'username'),
    },
  } else null,
  session: if std.objectHas(ctx, 'session') && ctx.session != null then {
    id: ctx.session.id,
    authenticated_at: field(ctx.session, 'authenticated_at'),
  } else null,
  request_headers: {
    'True-Client-Ip': header(ctx, 'True-Client-Ip'),
    'X-Real-Ip': header(ctx, 'X-Real-Ip'),
    'X-Forwarded-For': header(ctx, 'X-Forwarded-For'),
    'User-Agent': header(ctx, 'User-Agent'),
  },
}
