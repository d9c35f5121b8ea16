%% A service on the server of Erlang's inets (see README.md): calls with httpc and its kept connections.
-module(service).
-export([main/0, do/1]).

-record(mod, {init_data, data = [], socket_type = ip_comm, socket, config_db, method, absolute_uri = [], request_uri,
              http_version, request_line, parsed_header = [], entity_body, connection}).

main() ->
    {ok, _} = application:ensure_all_started(inets),
    ok = httpc:set_options([{max_sessions, 64}, {max_keep_alive_length, 1}]),
    Routes = lists:map(fun route/1, string:split(os:getenv("ROUTES"), ";", all)),
    persistent_term:put(routes, maps:from_list(Routes)),
    {ok, _} = inets:start(httpd, [{port, list_to_integer(os:getenv("PORT"))}, {bind_address, {127, 0, 0, 1}},
                                  {server_name, "service"}, {server_root, "."}, {document_root, "."},
                                  {modules, [?MODULE]}]).

route(Text) ->
    [Segment, Status, DelayMs | Urls] = string:lexemes(Text, " "),
    {Segment, {list_to_integer(Status), list_to_integer(DelayMs), Urls}}.

do(#mod{parsed_header = Headers, request_uri = Uri}) ->
    Id = proplists:get_value("x-request-id", Headers, "-"),
    Path = "/" ++ hd(string:lexemes(Uri, "/?") ++ [""]),
    {Status, DelayMs, Urls} = maps:get(Path, persistent_term:get(routes), {404, 0, []}),
    timer:sleep(DelayMs),
    Calls = lists:zip(lists:seq(1, length(Urls)), Urls),
    Answers = [call(Url, Id ++ "." ++ integer_to_list(K)) || {K, Url} <- Calls],
    Failed = lists:any(fun(Answer) -> not is_integer(Answer) orelse Answer >= 500 end, Answers),
    Final = case Failed of true -> 502; false -> Status end,
    log("S", Id, Final),
    Body = os:getenv("SERVICE") ++ " " ++ Id ++ "\n",
    Head = [{code, Final}, {content_type, "text/plain"}, {content_length, integer_to_list(length(Body))}],
    {proceed, [{response, {response, Head, Body}}]}.

call(Url, Id) ->
    Answer = case httpc:request(get, {Url, [{"x-request-id", Id}]}, [], []) of
        {ok, {{_, Status, _}, _, _}} -> Status;
        {error, {failed_connect, _}} -> connect;
        {error, _} -> '-'
    end,
    log("C", Id, Answer),
    Answer.

log(Kind, Id, Answer) ->
    Line = io_lib:format("~s ~s ~s ~p~n", [Kind, os:getenv("SERVICE"), Id, Answer]),
    ok = file:write_file(os:getenv("TRUTH_LOG"), Line, [append]).
