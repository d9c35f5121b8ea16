use super::*;

fn name(exe: &str, arguments: &[&str]) -> Option<String> {
    run(exe, arguments).name
}

fn run(exe: &str, arguments: &[&str]) -> Program {
    let exe = Path::new(exe);
    let line = CommandLine::parse(arguments.join("\0").as_bytes(), Some(exe));
    let around = Surroundings {
        exe: Some(exe),
        directory: Some(Path::new("/srv/shop")),
        package_name: &|directory| directory.starts_with("packaged").then(|| "from-package".to_owned()),
        variable: &|key| (key == "FLASK_APP").then(|| "flasked.py".to_owned()),
    };
    program(&line, &around)
}

#[test]
fn names_of_command_lines() {
    for (exe, arguments, expected) in [
        ("python3.11", "python3 app.py", Some("app")),
        (
            "python3.11",
            "python3 -u -W ignore -X dev /srv/web/cart.py --port 80",
            Some("cart"),
        ),
        ("python3", "python -m shop.api --x", Some("shop.api")),
        ("python3", "python -um shop", Some("shop")),
        ("python3", "python -m http.server 8000", Some("http.server")),
        ("python3", "python -c print()", None),
        ("python3", "python", None),
        ("python3", "python manage.py runserver", Some("shop")),
        ("python3", "python /srv/billing/__main__.py", Some("billing")),
        (
            "python3.11",
            "/usr/bin/python3 /usr/bin/gunicorn -w 4 -b localhost:8000 cart:app",
            Some("cart"),
        ),
        (
            "python3.11",
            "/usr/bin/python3.11 /usr/bin/gunicorn shop.wsgi:application",
            Some("shop"),
        ),
        (
            "python3.11",
            "python3 /usr/bin/gunicorn -b 127.0.0.1:80 make:create_app('x')",
            Some("make"),
        ),
        ("python3.11", "python3 /usr/bin/gunicorn -w 2 wsgi", Some("wsgi")),
        ("python3.11", "python3 /usr/bin/gunicorn -c conf.py", Some("gunicorn")),
        (
            "python3.11",
            "python3 -m uvicorn --host ::1 api.main:app --port 80",
            Some("api.main"),
        ),
        ("python3.11", "python3 -m flask run", Some("flasked")),
        ("python3.11", "python3 /usr/bin/flask --app hello run", Some("hello")),
        ("python3.11", "python3 /usr/bin/celery -A tasks worker", Some("tasks")),
        (
            "python3.11",
            "python3 /usr/bin/fastapi run api/orders.py",
            Some("orders"),
        ),
        ("node", "node server.js", Some("server")),
        ("node", "node packaged/server.js", Some("from-package")),
        ("node", "node -r ./tracing.js packaged/index.mjs", Some("from-package")),
        ("node", "node --max-old-space-size=400 packaged/cart.js", Some("cart")),
        ("node", "node /srv/orders/index.js", Some("orders")),
        ("node", "node -e code", None),
        ("node", "node .", Some("shop")),
        ("deno", "deno run -A api.ts", Some("api")),
        ("bun", "bun run api.ts", Some("api")),
        (
            "java",
            "java -Xmx1g -javaagent:x.jar -jar /opt/shop-1.2.3-SNAPSHOT.jar --port=1",
            Some("shop"),
        ),
        ("java", "java -jar user-service.jar", Some("user-service")),
        (
            "java",
            "java -cp a:b --add-opens x com.example.OrderServer x",
            Some("OrderServer"),
        ),
        ("java", "java -p mods -m com.shop/com.shop.Main", Some("Main")),
        ("java", "java Web.java", Some("Web")),
        ("java", "java -version", None),
        ("ruby3.1", "ruby -I lib app.rb", Some("app")),
        ("ruby", "ruby /usr/bin/puma -t 5", Some("shop")),
        ("ruby", "ruby bin/rails server", Some("shop")),
        ("ruby", "ruby -e code", None),
        ("php8.2", "php -S 0.0.0.0:80 router.php", Some("router")),
        ("php8.2", "php -S 0.0.0.0:80 -t public", Some("public")),
        ("php8.2", "php -S 0.0.0.0:80", Some("shop")),
        ("php8.2", "php artisan serve", Some("shop")),
        ("php", "php -d x=y worker.php", Some("worker")),
        ("perl", "perl -I lib -w api.pl", Some("api")),
        ("perl", "perl /usr/bin/plackup -p 80 orders.psgi", Some("orders")),
        ("dotnet", "dotnet exec /app/Shop.Web.dll --urls x", Some("Shop.Web")),
        ("beam.smp", "/erl/beam.smp -- -root /erl -sname chat@host", Some("chat")),
        ("bash", "bash /opt/start.sh", Some("start")),
        ("bash", "bash -c x", None),
        ("bash", "bash /dev/fd/3", None),
        ("bash", "bash /dev/stdin", None),
        ("python3", "python3 -u /proc/self/fd/63", None),
        (
            "ld-linux-x86-64.so.2",
            "/lib64/ld-linux-x86-64.so.2 --library-path /x /opt/cart --flag",
            Some("cart"),
        ),
        ("cart", "/opt/cart --flag", None),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        assert_eq!(name(exe, &arguments).as_deref(), expected, "{arguments:?}");
    }
}

#[test]
fn names_of_titles() {
    for (exe, title, expected) in [
        ("/usr/sbin/nginx", "nginx: worker process", "nginx"),
        (
            "/usr/sbin/nginx",
            "nginx: master process /usr/sbin/nginx -g daemon off;",
            "nginx",
        ),
        ("/usr/bin/python3.11", "gunicorn: worker [app]", "app"),
        (
            "/usr/bin/python3.11",
            "gunicorn: master [shop.wsgi:application]",
            "shop",
        ),
        (
            "/usr/bin/ruby",
            "puma 5.6.5 (tcp://0.0.0.0:9292) [storefront]",
            "storefront",
        ),
        (
            "/usr/bin/ruby",
            "puma: cluster worker 0: 123 [storefront]",
            "storefront",
        ),
        ("/usr/bin/ruby", "puma 5.6.5 (tcp://0.0.0.0:9292)", "puma"),
        ("/usr/bin/ruby", "sidekiq 6.5.0 mailer [0 of 5 busy]", "mailer"),
        ("/usr/bin/ruby", "unicorn worker[0] -c x.rb", "unicorn"),
        (
            "/usr/lib/postgresql/15/bin/postgres",
            "postgres: app app [local]",
            "postgres",
        ),
        ("/usr/sbin/php-fpm8.2", "php-fpm: pool www", "php-fpm"),
        ("/usr/bin/node", "node /srv/orders.js", "orders"),
        ("/usr/bin/node", "next-server (v14.2)", "next-server"),
    ] {
        let line = CommandLine::parse(title.as_bytes(), Some(Path::new(exe)));
        assert!(line.is_title, "{title}");
        assert_eq!(name(exe, &[title]).as_deref(), Some(expected), "{title}");
    }
}

#[test]
fn a_path_with_blanks_is_no_title() {
    let exe = Path::new("/opt/My Shop/web");
    assert!(!CommandLine::parse(b"/opt/My Shop/web\0", Some(exe)).is_title);
    assert!(!CommandLine::parse(b"web\0-x y\0", Some(exe)).is_title);
    assert!(CommandLine::parse(b"nginx: worker process\0=x\0", Some(exe)).is_title);
    assert_eq!(CommandLine::parse(b"\0\0", None), CommandLine::default());
}

#[test]
fn the_script_is_known() {
    assert_eq!(
        run("python3", &["python3", "-u", "/srv/app.py"]).script.as_deref(),
        Some("/srv/app.py")
    );
    assert_eq!(
        run("python3", &["python3", "/usr/bin/gunicorn", "a:b"])
            .script
            .as_deref(),
        Some("/usr/bin/gunicorn")
    );
    assert_eq!(run("java", &["java", "-jar", "x.jar"]).script.as_deref(), Some("x.jar"));
    assert_eq!(run("web", &["web", "x"]).script, None);
}

#[test]
fn any_command_line_gives_an_answer() {
    for exe in [
        "python3", "node", "java", "ruby", "php", "perl", "dotnet", "beam.smp", "bash", "deno", "ld-x.so", "uwsgi",
    ] {
        for arguments in [
            &[][..],
            &[""],
            &["x"],
            &["x", "-"],
            &["x", "--"],
            &["x", "-m"],
            &["x", "-jar"],
            &["x", "-é"],
            &["x", "/"],
            &["x", "-W"],
            &["é: [", "]"],
            &["x", "-", "..", ""],
        ] {
            run(exe, arguments);
        }
    }
}
